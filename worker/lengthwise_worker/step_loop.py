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

    def close(self) -> None:
        """Waits until nothing writes to the cache any more; `step` must not be called again."""


class StepClock:
    """How long each step had the device, as far as the host can tell.

    A step begins when it is launched, or when the one before has ended, which is when the host has
    read its tokens if it waited for them. A host that came late knows neither when that step ended
    nor when the next began: both are unknown. One that comes late three times in a row was not
    held up once, since no more than two steps can end meanwhile: then the host takes the time.
    """

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._num_late = 0

    def seconds(self, launched_at: float, read_at: float, *, is_late: bool) -> float | None:
        """Of the step whose tokens were read; `is_late`: they had been there when they were asked
        for. None: unknown."""
        began_at, self._read_at = max(launched_at, self._read_at), read_at
        num_late, self._num_late = self._num_late, self._num_late + 1 if is_late else 0
        is_known = num_late >= 2 if is_late else not num_late
        return read_at - began_at if is_known else None
