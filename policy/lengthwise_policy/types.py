"""Names and values that the rooms of this package share.

Instants are seconds of the caller's clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NewType

RequestId = NewType("RequestId", str)
WorkerId = NewType("WorkerId", str)

Role = Literal["prefill", "decode"]

Random = Callable[[], float]
"""Gives numbers in [0, 1), e.g. `random.Random(seed).random`."""

STEP_TOKENS = 512
"""Prompt tokens in one step of a worker, as its scheduler plans by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChunk:
    """Tokens [start, start + num_tokens) of one prompt, computed in one batch."""

    request_id: RequestId
    start: int  # a multiple of the block size
    num_tokens: int
    is_last: bool  # the prompt ends with this chunk; only then it may end inside a block
