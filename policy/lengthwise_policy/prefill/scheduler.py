"""What a prefill worker computes next, in batches under a token budget.

A discipline (discipline.py) chooses a queue; here its choice becomes a batch. Only what no cached
prefix covers is computed. Blocks for the whole prompt are taken when its first chunk is scheduled:
a prompt that has begun can always end.

    queued ──first chunk──▶ begun ──last chunk──▶ computed ──release──▶ gone
                            (holds blocks)        (holds them while its KV is sent)

A prompt is classed when it is queued and once more when it begins, for its prefix may have come or
gone meanwhile. A prompt that lacks blocks which this very batch computes for another one is left
out of it, if that saves enough: one batch later it can share them.

Invariant: every token is computed once and in order; chunks start and end on block boundaries,
except the end of the prompt; while a batch runs, none of its blocks becomes free.
"""

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.deadlines import Deadlines
from lengthwise_policy.errors import DuplicateRequest, NeverFits, QueueFull, UnknownRequest
from lengthwise_policy.kv.blocks import blocks_for
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LENGTH_CLASSES, LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.discipline import WaitUntil, full_batch
from lengthwise_policy.prefill.disciplines import DISCIPLINES
from lengthwise_policy.prefill.draft import Draft
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import Backlog, PrefillJob, Prompt, PromptQueue, QueueLength
from lengthwise_policy.types import PromptChunk, RequestId

_NO_BLOCKS = "lack of free blocks"


class PrefillScheduler:
    """Plans one batch at a time: `next_batch`, run it, `computed`, and again."""

    def __init__(
        self, policy: PrefillPolicy, objectives: Objectives, blocks: PrefixCache, block_size: int
    ) -> None:
        require_at_least("block_size", block_size, 1)
        require_at_least("chunk_tokens (it must hold a block)", policy.chunk_tokens, block_size)
        self._policy = policy
        self._blocks = blocks
        self._block_size = block_size
        self._short_tokens = DEFAULT_SHORT_TOKENS
        self._discipline = DISCIPLINES[policy.discipline](policy, objectives)
        self._prompts: dict[RequestId, Prompt] = {}
        self._begun: dict[RequestId, Prompt] = {}  # and not complete
        self._num_arrived = 0
        self._backlog = Backlog()
        self._deadlines = Deadlines()
        self._running: PrefillBatch | None = None
        self.wake_at: float | None = None
        """After `next_batch` returned None: when to ask again even if nothing has changed."""

    @property
    def num_queued(self) -> int:
        """Requests with tokens still to compute."""
        return self._backlog.requests

    def queue_length(self, length: LengthClass) -> QueueLength:
        """The part of one class in what is still to compute, the running batch included."""
        return self._backlog.of(length)

    def enqueue(self, job: PrefillJob) -> None:
        """Raises QueueFull, NeverFits or DuplicateRequest."""
        if job.request_id in self._prompts:
            raise DuplicateRequest(
                f"prefill of {job.request_id!r}: the worker holds this id already; release it, and"
                " let the running batch end, before it is used again"
            )
        needed = blocks_for(job.num_tokens, self._block_size)
        if needed > self._blocks.num_blocks:
            raise NeverFits(
                f"prompt of {job.request_id!r}: {job.num_tokens} tokens need {needed} blocks, "
                f"the cache has {self._blocks.num_blocks}; use a worker with more KV memory"
            )
        if self.num_queued >= self._policy.queue_limit:
            raise QueueFull(
                f"prefill queue: {self.num_queued} requests wait, the limit is "
                f"{self._policy.queue_limit}; try another worker or later"
            )
        usable = job.hashes[: (job.num_tokens - 1) // self._block_size]
        cached = self._blocks.match(usable) * self._block_size
        prompt = Prompt(
            job=job,
            number=self._num_arrived,
            usable=usable,
            length=self._classify(job, cached),
            num_computed=cached,
        )
        self._num_arrived += 1
        self._prompts[job.request_id] = prompt
        self._backlog.add(prompt)
        self._deadlines.add(job.request_id, job.deadline_at)
        self._discipline.arrived(prompt)
        self._push(prompt)

    def next_batch(
        self, now: float, cost: CostModel = PRIOR, short_tokens: int = DEFAULT_SHORT_TOKENS
    ) -> PrefillBatch | None:
        """Plans a batch and takes its blocks; None when nothing can or should run now.
        Raises RuntimeError while a batch is running."""
        if self._running is not None:
            raise RuntimeError("next_batch: the last batch is running; call computed() first")
        self.wake_at = None
        self._short_tokens = short_tokens
        moved = True
        while moved:  # each turn moves a prompt to the queue of the class it has now
            moved = False
            for choice in self._discipline.choices(now, cost):
                if isinstance(choice, WaitUntil):
                    self.wake_at = choice.until
                    return None
                draft = Draft(choice, self._block_size)
                moved |= self._fill(draft, cost)
                if draft:
                    return self._start(draft, now, cost)
                if choice.holds and draft.ended_by == _NO_BLOCKS:
                    break
        return self._go_on(now, cost)

    def computed(self, batch: PrefillBatch) -> tuple[RequestId, ...]:
        """Ends the running batch, at the latest before the next one is computed.

        Returns the requests whose prompts are complete then. The blocks of those released meanwhile
        return to the cache here. Raises ValueError if `batch` is not the running one.
        """
        if batch is not self._running and batch != self._running:
            raise ValueError(f"computed: expected the running batch {self._running}, got {batch}")
        self._running = None
        complete = []
        for chunk in batch.chunks:
            prompt = self._prompts[chunk.request_id]
            self._publish(prompt, chunk)
            prompt.in_batch = False
            if prompt.released:
                self._free(prompt)
                continue
            self._backlog.remove(prompt)
            prompt.num_computed += chunk.num_tokens
            if chunk.is_last:
                del self._begun[chunk.request_id]
                complete.append(chunk.request_id)
            else:
                self._backlog.add(prompt)
                self._push(prompt)
        return tuple(complete)

    def block_ids(self, request_id: RequestId) -> tuple[int, ...]:
        """Of a begun request, in the order of its tokens. Raises UnknownRequest."""
        return self._begun_prompt(request_id).block_ids

    def num_cached_tokens(self, request_id: RequestId) -> int:
        """Tokens of a begun request whose KV was there already. Raises UnknownRequest."""
        return self._begun_prompt(request_id).num_cached

    def length_class(self, request_id: RequestId) -> LengthClass:
        """The class in which a request has begun. Raises UnknownRequest."""
        return self._begun_prompt(request_id).length

    def release(self, request_id: RequestId) -> bool:
        """Cancels a request or frees a computed one; False when none of this id is (still) held.

        Its blocks are free at once, or after `computed` where the running batch has it.
        """
        prompt = self._prompts.get(request_id)
        if prompt is None or prompt.released:
            return False
        self._begun.pop(request_id, None)
        if prompt.num_missing > 0:
            self._backlog.remove(prompt)
        self._deadlines.discard(request_id)
        if prompt.in_batch:
            prompt.released = True
            return True
        if prompt.num_missing > 0:
            self._discipline.queue_of(prompt.length).discard(prompt)
        self._free(prompt)
        return True

    def expired(self, now: float) -> tuple[RequestId, ...]:
        """Requests in any state past their deadline; each is reported until it is released."""
        return self._deadlines.passed(now)

    def _fill(self, draft: Draft, cost: CostModel) -> bool:
        """True when a prompt was found to be of another class and went to the queue of that one."""
        choice = draft.choice
        moved = self._take(choice.queue, draft, cost)
        if draft and choice.top_up is not None and draft.limit(choice.top_up_tokens):
            moved |= self._take(choice.top_up, draft, cost)
        return moved

    def _take(self, queue: PromptQueue, draft: Draft, cost: CostModel) -> bool:
        """Plans prompts of the queue, most urgent first, as far as the limits allow; as `_fill`."""
        moved = False
        left_out: list[Prompt] = []
        while len(left_out) < self._policy.max_batch_requests:
            if draft.is_full:
                draft.ended_by = "request limit"
                break
            prompt = queue.pop(draft.bucket)
            if prompt is None:
                break
            if not prompt.has_begun and self._changes_queue(prompt, queue):
                moved = True
            elif not prompt.has_begun and draft.is_worth_leaving_out(prompt, cost):
                left_out.append(prompt)
            elif not self._plan(prompt, draft):
                left_out.append(prompt)
                break
        for prompt in left_out:
            self._push(prompt)
        return moved

    def _changes_queue(self, prompt: Prompt, queue: PromptQueue) -> bool:
        """Looks again at what is cached of a prompt; moves it where its class has changed."""
        cached = self._blocks.match(prompt.usable) * self._block_size
        length = self._classify(prompt.job, cached)
        if cached == prompt.num_computed and length == prompt.length:
            return False
        self._backlog.remove(prompt)
        prompt.num_computed = cached
        prompt.length = length
        self._backlog.add(prompt)
        if self._discipline.queue_of(length) is queue:
            return False
        self._push(prompt)
        return True

    def _plan(self, prompt: Prompt, draft: Draft) -> bool:
        """Adds the prompt's next chunk; False, and nothing has changed, when it does not fit."""
        num_tokens = draft.fitting(prompt)
        if num_tokens == 0:
            draft.ended_by = "token budget"
            return False
        if not prompt.has_begun and not self._begin(prompt):
            draft.ended_by = _NO_BLOCKS
            return False
        draft.add(prompt, num_tokens)
        return True

    def _begin(self, prompt: Prompt) -> bool:
        """Takes the blocks of the whole prompt; False when too few can be had."""
        needed = blocks_for(prompt.job.num_tokens, self._block_size)
        taken = self._blocks.take(prompt.usable, needed)
        if taken is None:
            return False
        prompt.block_ids = taken.block_ids
        prompt.num_cached = taken.num_shared * self._block_size
        self._begun[prompt.job.request_id] = prompt
        return True

    def _go_on(self, now: float, cost: CostModel) -> PrefillBatch | None:
        """Where the discipline looked, blocks are lacking: those that have begun need none."""
        for length in LENGTH_CLASSES:
            queue = self._discipline.queue_of(length)
            begun = [prompt for prompt in self._begun.values() if prompt in queue]
            full = full_batch(queue, self._policy, "begun", "others lack blocks")
            draft = Draft(full, self._block_size)
            for prompt in sorted(begun, key=self._discipline.urgency):
                if draft.is_full or not self._plan(prompt, draft):
                    break
                queue.discard(prompt)
            if draft:
                return self._start(draft, now, cost)
        return None

    def _start(self, draft: Draft, now: float, cost: CostModel) -> PrefillBatch:
        seconds = draft.seconds(cost)
        self._running = draft.start(now, seconds)
        first = self._prompts[self._running.chunks[0].request_id]
        self._discipline.planned(first.length, seconds)
        return self._running

    def _publish(self, prompt: Prompt, chunk: PromptChunk) -> None:
        """The chunk is computed: its full blocks may be shared, whatever becomes of the request."""
        first = chunk.start // self._block_size
        hashes = prompt.job.hashes[first : (chunk.start + chunk.num_tokens) // self._block_size]
        self._blocks.publish(prompt.block_ids[first : first + len(hashes)], hashes)

    def _begun_prompt(self, request_id: RequestId) -> Prompt:
        prompt = self._prompts.get(request_id)
        if prompt is None or prompt.released or not prompt.has_begun:
            raise UnknownRequest(f"{request_id!r}: expected a prefill that has begun, not released")
        return prompt

    def _classify(self, job: PrefillJob, cached: int) -> LengthClass:
        return self._discipline.classify(job, job.num_tokens - cached, self._short_tokens)

    def _push(self, prompt: Prompt) -> None:
        queue = self._discipline.queue_of(prompt.length)
        queue.push(self._discipline.urgency(prompt), prompt)

    def _free(self, prompt: Prompt) -> None:
        del self._prompts[prompt.job.request_id]
        self._blocks.release(prompt.block_ids, returning=prompt.job.returning)
