"""One step of a prefill worker."""

from dataclasses import dataclass
from typing import Literal

from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.types import PromptChunk

PrefillRule = Literal["fcfs", "short_first", "alone", "window", "ahead", "aged", "share", "begun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillBatch:
    """The chunks of one prefill step, at most one per request, in the order of the queue."""

    chunks: tuple[PromptChunk, ...]
    length: LengthClass | Literal["mixed"]
    rule: PrefillRule
    reason: str  # the rule, and the numbers behind it

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)
