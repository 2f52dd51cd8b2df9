"""What a prefill worker computes next: first come, first served, under a token budget per batch.

Short prompts share a batch; a prompt above the budget is computed in chunks, so that one batch never
takes longer than the budget says. Blocks for the whole prompt are taken when its first chunk is
scheduled: a prompt that has begun can always end.

A request is queued, then begun (it holds blocks), then computed (it still holds them, while its KV is
sent), then released. The rules: every token is computed once and in order; chunks start and end on
block boundaries, except the end of the prompt; while a batch runs, no block of it becomes free.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from lengthwise_policy.blocks import BlockPool, blocks_for
from lengthwise_policy.checks import require_at_least
from lengthwise_policy.deadlines import Deadlines
from lengthwise_policy.errors import DuplicateRequest, NeverFits, QueueFull, UnknownRequest
from lengthwise_policy.lengths import (
    DEFAULT_SHORT_TOKENS,
    LENGTH_CLASSES,
    LengthClass,
    length_class,
)
from lengthwise_policy.types import Chunk, PrefillBatch, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPolicy:
    """Limits of a prefill worker."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    chunk_tokens: int = 512  # tokens of one batch; Sarathi-Serve: chunks of 512 cost up to 25 %
    max_batch_requests: int = 64
    queue_limit: int = 1024  # requests with tokens still to compute
    short_tokens: int = DEFAULT_SHORT_TOKENS  # the longest prompt that is still of class "short"

    def __post_init__(self) -> None:
        require_at_least("chunk_tokens", self.chunk_tokens, 1)
        require_at_least("max_batch_requests", self.max_batch_requests, 1)
        require_at_least("queue_limit", self.queue_limit, 1)
        require_at_least("short_tokens", self.short_tokens, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillJob:
    """A prompt to compute."""

    request_id: RequestId
    num_tokens: int
    arrived_at: float
    deadline_at: float

    def __post_init__(self) -> None:
        require_at_least("num_tokens", self.num_tokens, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLength:
    """What one length class still has to compute."""

    requests: int
    tokens: int


class PrefillScheduler:
    """Plans one batch at a time: `next_batch`, run it, `computed`, and again."""

    def __init__(self, policy: PrefillPolicy, pool: BlockPool, block_size: int) -> None:
        raise NotImplementedError

    @property
    def num_queued(self) -> int:
        """Requests with tokens still to compute."""
        raise NotImplementedError

    @property
    def queued_tokens(self) -> int:
        """Tokens still to compute, those of the running batch included."""
        raise NotImplementedError

    def queue_length(self, length: LengthClass) -> QueueLength:
        """What is still to compute in one length class (of the whole prompt, not of what is left)."""
        raise NotImplementedError

    def enqueue(self, job: PrefillJob) -> None:
        """Raises QueueFull, NeverFits or DuplicateRequest."""
        raise NotImplementedError

    def next_batch(self, now: float) -> PrefillBatch | None:
        """Plans a batch and takes the blocks it needs; None when nothing can run now.

        Raises RuntimeError while a batch is running.
        """
        raise NotImplementedError

    def computed(self, batch: PrefillBatch) -> tuple[RequestId, ...]:
        """Says that the running batch has ended.

        Returns the requests whose prompts are complete now, without those released meanwhile, whose
        blocks return to the pool here. Raises ValueError if `batch` is not the running one.
        """
        raise NotImplementedError

    def block_ids(self, request_id: RequestId) -> tuple[int, ...]:
        """The blocks of a request that has begun, in the order of its tokens, until it is released.

        Raises UnknownRequest.
        """
        raise NotImplementedError

    def release(self, request_id: RequestId) -> bool:
        """Cancels a request or frees a computed one; False when there is none of this id (any more).

        Its blocks are free at once, or after `computed` when it is in the running batch.
        """
        raise NotImplementedError

    def expired(self, now: float) -> tuple[RequestId, ...]:
        """The requests, in whatever state, whose deadline has passed and that are not released yet."""
        raise NotImplementedError
