"""What the step loops of both roles have in common."""

from typing import Protocol

from lengthwise_worker.snapshot import EngineSnapshot

IDLE_SECONDS = 0.1
"""How long an idle engine waits for a command before it looks at deadlines again."""


class StepLoop(Protocol):
    """Owns scheduler, blocks and model; runs on the engine thread, which alone touches them."""

    @property
    def progress(self) -> int:
        """Grows with every layer of every step: still while requests run means stuck."""

    @property
    def snapshot(self) -> EngineSnapshot:
        """The newest; safe to read from any thread."""

    def step(self) -> None:
        """One turn: drain the mailbox, plan, run, publish. Returns within the time of one step, or
        IDLE_SECONDS when there is none."""
