"""PrefillScheduler under any order of calls: no token skipped or computed twice, no block lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lengthwise_policy.blocks import BlockPool, blocks_for
from lengthwise_policy.lengths import LENGTH_CLASSES, length_class
from lengthwise_policy.prefill import PrefillJob, PrefillPolicy, PrefillScheduler
from lengthwise_policy.types import PrefillBatch, RequestId

BLOCK_SIZE = 4
NUM_BLOCKS = 24
POLICY = PrefillPolicy(chunk_tokens=18, max_batch_requests=3, queue_limit=6, short_tokens=8)


class Prompt:
    """What the test knows of one prompt."""

    def __init__(self, num_tokens: int, deadline_at: float) -> None:
        self.num_tokens = num_tokens
        self.deadline_at = deadline_at
        self.num_computed = 0
        self.block_ids: tuple[int, ...] = ()


class PrefillMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.scheduler = PrefillScheduler(POLICY, self.pool, BLOCK_SIZE)
        self.prompts: dict[RequestId, Prompt] = {}  # not released, in the order of arrival
        self.pinned: dict[RequestId, Prompt] = {}  # released in the running batch
        self.batch: PrefillBatch | None = None
        self.num_enqueued = 0
        self.now = 0.0

    def waiting(self) -> list[RequestId]:
        return [
            request_id
            for request_id, prompt in self.prompts.items()
            if prompt.num_computed < prompt.num_tokens
        ]

    @precondition(lambda self: len(self.waiting()) < POLICY.queue_limit)
    @rule(num_tokens=st.integers(1, NUM_BLOCKS * BLOCK_SIZE), patience=st.integers(0, 20))
    def enqueue(self, num_tokens: int, patience: int) -> None:
        request_id = RequestId(f"r{self.num_enqueued}")
        self.num_enqueued += 1
        deadline_at = self.now + patience
        self.scheduler.enqueue(
            PrefillJob(
                request_id=request_id,
                num_tokens=num_tokens,
                arrived_at=self.now,
                deadline_at=deadline_at,
            )
        )
        self.prompts[request_id] = Prompt(num_tokens, deadline_at)

    @precondition(lambda self: self.batch is None)
    @rule()
    def next_batch(self) -> None:
        waiting = self.waiting()
        self.batch = self.scheduler.next_batch(self.now)
        chunks = self.batch.chunks if self.batch else ()
        budget = POLICY.chunk_tokens
        assert [chunk.request_id for chunk in chunks] == waiting[: len(chunks)]  # nobody overtakes
        assert len(chunks) <= POLICY.max_batch_requests
        for chunk in chunks:
            prompt = self.prompts[chunk.request_id]
            missing = prompt.num_tokens - prompt.num_computed
            assert chunk.start == prompt.num_computed
            assert 1 <= chunk.num_tokens <= min(missing, budget)
            assert chunk.is_last == (chunk.num_tokens == missing)
            assert chunk.is_last or (chunk.start + chunk.num_tokens) % BLOCK_SIZE == 0
            self.note_blocks(chunk.request_id)
            budget -= chunk.num_tokens
        self.check_nothing_more_would_fit(waiting[len(chunks) :], len(chunks), budget)

    def note_blocks(self, request_id: RequestId) -> None:
        prompt = self.prompts[request_id]
        block_ids = self.scheduler.block_ids(request_id)
        assert len(block_ids) == blocks_for(prompt.num_tokens, BLOCK_SIZE)
        assert prompt.block_ids in ((), block_ids)  # they never move
        if not prompt.block_ids:
            others = [*self.prompts.values(), *self.pinned.values()]
            assert all(set(block_ids).isdisjoint(other.block_ids) for other in others)
        prompt.block_ids = block_ids

    def check_nothing_more_would_fit(
        self, left: list[RequestId], num_chunks: int, budget: int
    ) -> None:
        if not left or num_chunks == POLICY.max_batch_requests:
            return
        if self.batch and not self.batch.chunks[-1].is_last:
            assert budget < BLOCK_SIZE
            return
        needed = self.prompts[left[0]].num_tokens
        assert budget < min(needed, BLOCK_SIZE) or self.pool.num_free < blocks_for(
            needed, BLOCK_SIZE
        )

    @precondition(lambda self: self.batch is not None)
    @rule()
    def computed(self) -> None:
        assert self.batch is not None
        complete = self.scheduler.computed(self.batch)
        expected = []
        for chunk in self.batch.chunks:
            if self.pinned.pop(chunk.request_id, None) is None:
                self.prompts[chunk.request_id].num_computed += chunk.num_tokens
                if chunk.is_last:
                    expected.append(chunk.request_id)
        assert list(complete) == expected
        self.batch = None

    @precondition(lambda self: self.prompts)
    @rule(pick=st.integers(0))
    def release(self, pick: int) -> None:
        request_id = list(self.prompts)[pick % len(self.prompts)]
        prompt = self.prompts.pop(request_id)
        if self.batch and request_id in {chunk.request_id for chunk in self.batch.chunks}:
            self.pinned[request_id] = prompt
        assert self.scheduler.release(request_id)
        assert not self.scheduler.release(request_id)

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        expired = {
            request_id
            for request_id, prompt in self.prompts.items()
            if prompt.deadline_at <= self.now
        }
        assert set(self.scheduler.expired(self.now)) == expired

    @invariant()
    def every_block_has_one_owner(self) -> None:
        self.pool.check_integrity()
        owners = [*self.prompts.values(), *self.pinned.values()]
        held = sum(len(prompt.block_ids) for prompt in owners)
        assert self.pool.num_free == NUM_BLOCKS - held

    @invariant()
    def the_queue_is_counted_exactly(self) -> None:
        waiting = [self.prompts[request_id] for request_id in self.waiting()]
        assert self.scheduler.num_queued == len(waiting)
        for length in LENGTH_CLASSES:
            of_class = [
                prompt
                for prompt in waiting
                if length_class(prompt.num_tokens, POLICY.short_tokens) == length
            ]
            counted = self.scheduler.queue_length(length)
            assert counted.requests == len(of_class)
            assert counted.tokens == sum(p.num_tokens - p.num_computed for p in of_class)

    def teardown(self) -> None:
        """Everything ends: the queue empties when computed prompts are released."""
        if self.batch:
            self.computed()
        for _ in range(1000):
            for request_id in self.prompts.keys() - set(self.waiting()):
                self.scheduler.release(request_id)
                del self.prompts[request_id]
            if not self.prompts:
                break
            self.next_batch()
            assert self.batch is not None
            self.computed()
        assert not self.prompts
        assert self.pool.num_free == NUM_BLOCKS


TestPrefillMachine = PrefillMachine.TestCase
TestPrefillMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
