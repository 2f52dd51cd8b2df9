"""What a prefill worker computes next: first come, first served, under a token budget per batch.

Short prompts share a batch; a prompt above the budget is computed in chunks, so that no batch takes
longer than the budget allows. Blocks for the whole prompt are taken when its first chunk is
scheduled: a prompt that has begun can always end.

    queued ──first chunk──▶ begun ──last chunk──▶ computed ──release──▶ gone
                            (holds blocks)        (holds them while its KV is sent)

The rules: every token is computed once and in order; chunks start and end on block boundaries,
except the end of the prompt; while a batch runs, no block of it becomes free.
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
    """What one length class still has to compute; a request keeps the class it came with."""

    requests: int
    tokens: int


@dataclass(slots=True)
class _Prompt:
    job: PrefillJob
    length: LengthClass
    block_ids: tuple[int, ...] = ()  # empty until the first chunk is scheduled
    num_computed: int = 0
    in_batch: bool = False
    released: bool = False  # only while in_batch: the blocks wait for the end of the batch

    @property
    def num_missing(self) -> int:
        return self.job.num_tokens - self.num_computed


class PrefillScheduler:
    """Plans one batch at a time: `next_batch`, run it, `computed`, and again."""

    def __init__(self, policy: PrefillPolicy, pool: BlockPool, block_size: int) -> None:
        require_at_least("block_size", block_size, 1)
        require_at_least("chunk_tokens (it must hold a block)", policy.chunk_tokens, block_size)
        self._policy = policy
        self._pool = pool
        self._block_size = block_size
        self._prompts: dict[RequestId, _Prompt] = {}
        # Those with tokens to compute. A plain dict becomes slow when it is emptied from its front.
        self._queue: OrderedDict[RequestId, _Prompt] = OrderedDict()
        self._queued_requests = dict.fromkeys(LENGTH_CLASSES, 0)
        self._queued_tokens = dict.fromkeys(LENGTH_CLASSES, 0)
        self._deadlines = Deadlines()
        self._running: PrefillBatch | None = None

    @property
    def num_queued(self) -> int:
        """Requests with tokens still to compute."""
        return len(self._queue)

    @property
    def queued_tokens(self) -> int:
        """Tokens still to compute, those of the running batch included."""
        return sum(self._queued_tokens.values())

    def queue_length(self, length: LengthClass) -> QueueLength:
        """The part of one length class in `num_queued` and `queued_tokens`."""
        return QueueLength(
            requests=self._queued_requests[length], tokens=self._queued_tokens[length]
        )

    def enqueue(self, job: PrefillJob) -> None:
        """Raises QueueFull, NeverFits or DuplicateRequest."""
        if job.request_id in self._prompts:
            raise DuplicateRequest(
                f"prefill of {job.request_id!r}: the worker holds this id already; "
                f"release it, and let the running batch end, before it is used again"
            )
        needed = blocks_for(job.num_tokens, self._block_size)
        if needed > self._pool.num_blocks:
            raise NeverFits(
                f"prompt of {job.request_id!r}: {job.num_tokens} tokens need {needed} blocks, "
                f"the cache has {self._pool.num_blocks}; use a worker with more KV memory"
            )
        if len(self._queue) >= self._policy.queue_limit:
            raise QueueFull(
                f"prefill queue: {len(self._queue)} requests wait, the limit is "
                f"{self._policy.queue_limit}; try another worker or later"
            )
        prompt = _Prompt(job=job, length=length_class(job.num_tokens, self._policy.short_tokens))
        self._prompts[job.request_id] = self._queue[job.request_id] = prompt
        self._queued_requests[prompt.length] += 1
        self._queued_tokens[prompt.length] += job.num_tokens
        self._deadlines.add(job.request_id, job.deadline_at)

    def next_batch(self, now: float) -> PrefillBatch | None:
        """Plans a batch and takes the blocks it needs; None when nothing can run now.

        Raises RuntimeError while a batch is running.
        """
        if self._running is not None:
            raise RuntimeError("next_batch: the last batch is running; call computed() first")
        chunks: list[Chunk] = []
        budget = self._policy.chunk_tokens
        ended_by = "end of queue"
        for prompt in self._queue.values():
            if len(chunks) == self._policy.max_batch_requests:
                ended_by = "request limit"
                break
            num_tokens = self._fitting(prompt.num_missing, budget)
            if num_tokens == 0:
                ended_by = "token budget"
                break
            if not self._begin(prompt):
                ended_by = "lack of free blocks"
                break
            chunks.append(_chunk(prompt, num_tokens))
            budget -= num_tokens
            if num_tokens < prompt.num_missing:
                ended_by = "token budget"
                break
        if not chunks:
            return None
        waited = now - self._prompts[chunks[0].request_id].job.arrived_at
        self._running = PrefillBatch(
            chunks=tuple(chunks),
            reason=f"first come, first served: cut by {ended_by}, oldest waited {waited:.3f} s",
        )
        for chunk in chunks:
            self._prompts[chunk.request_id].in_batch = True
        return self._running

    def computed(self, batch: PrefillBatch) -> tuple[RequestId, ...]:
        """Says that the running batch has ended.

        Returns the requests whose prompts are complete now, without those released meanwhile, whose
        blocks return to the pool here. Raises ValueError if `batch` is not the running one.
        """
        if batch != self._running:
            raise ValueError(f"computed: expected the running batch {self._running}, got {batch}")
        self._running = None
        complete = []
        for chunk in batch.chunks:
            prompt = self._prompts[chunk.request_id]
            prompt.in_batch = False
            if prompt.released:
                self._free(prompt)
                continue
            prompt.num_computed += chunk.num_tokens
            self._queued_tokens[prompt.length] -= chunk.num_tokens
            if chunk.is_last:
                del self._queue[chunk.request_id]
                self._queued_requests[prompt.length] -= 1
                complete.append(chunk.request_id)
        return tuple(complete)

    def block_ids(self, request_id: RequestId) -> tuple[int, ...]:
        """The blocks of a request that has begun, in the order of its tokens, until it is released.

        Raises UnknownRequest.
        """
        prompt = self._prompts.get(request_id)
        if prompt is None or prompt.released or not prompt.block_ids:
            raise UnknownRequest(
                f"blocks of {request_id!r}: expected a prefill that has begun and is not released"
            )
        return prompt.block_ids

    def release(self, request_id: RequestId) -> bool:
        """Cancels a request or frees a computed one; False when none of this id is (still) held.

        Its blocks are free at once, or after `computed` when it is in the running batch.
        """
        prompt = self._prompts.get(request_id)
        if prompt is None or prompt.released:
            return False
        if self._queue.pop(request_id, None) is not None:
            self._queued_requests[prompt.length] -= 1
            self._queued_tokens[prompt.length] -= prompt.num_missing
        self._deadlines.discard(request_id)
        if prompt.in_batch:
            prompt.released = True
        else:
            self._free(prompt)
        return True

    def expired(self, now: float) -> tuple[RequestId, ...]:
        """Requests in any state whose deadline has passed; each is named until it is released."""
        return self._deadlines.passed(now)

    def _fitting(self, num_missing: int, budget: int) -> int:
        """Tokens of the next chunk: the rest of the prompt, or the whole blocks in the budget."""
        return num_missing if num_missing <= budget else budget - budget % self._block_size

    def _begin(self, prompt: _Prompt) -> bool:
        """Takes the blocks of the whole prompt unless it has them; False when too few are free."""
        if not prompt.block_ids:
            needed = blocks_for(prompt.job.num_tokens, self._block_size)
            prompt.block_ids = self._pool.allocate(needed) or ()
        return bool(prompt.block_ids)

    def _free(self, prompt: _Prompt) -> None:
        del self._prompts[prompt.job.request_id]
        self._pool.release(prompt.block_ids)


def _chunk(prompt: _Prompt, num_tokens: int) -> Chunk:
    return Chunk(
        request_id=prompt.job.request_id,
        start=prompt.num_computed,
        num_tokens=num_tokens,
        is_last=num_tokens == prompt.num_missing,
    )
