"""A step between its launch and its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise_engine.runner.base import PendingStep, SequenceChunk
from lengthwise_policy.cost.fit import StepSample
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.types import RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedStep:
    """The plan, its input to the runner, and the pending result."""

    step: DecodeStep
    chunks: Sequence[SequenceChunk]
    """Rows first, in the order of the step."""
    pending: PendingStep
    launched_at: float
    is_warm: bool
    """The first step after a pause finds caches cold and clocks low."""
    places: dict[RequestId, int] = field(init=False)
    """Which chunk samples the token of each request that gets one."""

    def __post_init__(self) -> None:
        num_rows = len(self.step.request_ids)
        places = {request_id: place for place, request_id in enumerate(self.step.request_ids)}
        for place, chunk in enumerate(self.step.chunks, num_rows):
            if chunk.is_last:
                places[chunk.request_id] = place
        object.__setattr__(self, "places", places)

    @property
    def may_be_followed(self) -> bool:
        """Whether the next step can be launched before the tokens of this one are known: grammars
        need all of them."""
        return not any(
            chunk.sampling is not None and chunk.sampling.sampling.needs_history
            for chunk in self.chunks
        )

    @property
    def num_prompt_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.step.chunks)

    def sample(self, seconds: float) -> StepSample:
        num_rows = len(self.step.request_ids)
        return StepSample.of(
            self.step.chunks,
            seconds,
            decode_requests=num_rows,
            decode_context=sum(row.end for row in self.chunks[:num_rows]),
        )
