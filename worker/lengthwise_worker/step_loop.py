"""What the step loops of both roles have in common."""

from collections.abc import Sequence
from typing import Protocol

from lengthwise_policy.cost.fit import StepSample
from lengthwise_policy.types import PromptChunk
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


def step_sample(
    chunks: Sequence[PromptChunk],
    seconds: float,
    *,
    decode_requests: int = 0,
    decode_context: int = 0,
) -> StepSample:
    """A step's row for the fit; docs/policies.md has the formulas."""
    return StepSample(
        seconds=seconds,
        new_tokens=sum(chunk.num_tokens for chunk in chunks),
        attention=sum(c.num_tokens * (c.num_tokens + 2 * c.start) for c in chunks),
        history=sum(chunk.start for chunk in chunks),
        decode_requests=decode_requests,
        decode_context=decode_context,
    )
