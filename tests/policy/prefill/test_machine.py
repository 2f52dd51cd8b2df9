"""PrefillScheduler under any order of calls, with every discipline: no token skipped or computed
twice, no block lost or overwritten, classes apart, limits and priorities kept."""

from collections.abc import Sequence

import pytest
from harness.block_integrity import check_cache
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.kv.blocks import blocks_for
from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.length_class import LENGTH_CLASSES, length_class
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.disciplines import batch_rules
from lengthwise_policy.prefill.policy import DisciplineName, PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 4
NUM_BLOCKS = 24
SHORT_TOKENS = 8
OBJECTIVES = Objectives(ttft_short_seconds=5.0, ttft_long_seconds=20.0)
COST = CostModel(
    step_seconds=1.0,
    token_seconds=0.1,
    attention_seconds=0.001,
    history_seconds=0.002,
    decode_request_seconds=0.0,
    decode_context_seconds=0.0,
)


class Prompt:
    """What the test knows of one prompt: all prompts of a family begin alike."""

    def __init__(self, family: int, job: PrefillJob) -> None:
        self.family = family
        self.job = job
        self.num_computed: int | None = None  # None: not begun
        self.block_ids: tuple[int, ...] = ()

    @property
    def is_waiting(self) -> bool:
        return self.num_computed is None or self.num_computed < self.job.num_tokens


class PrefillMachine(RuleBasedStateMachine):
    discipline: DisciplineName = "length_aware"

    def __init__(self) -> None:
        super().__init__()
        self.policy = PrefillPolicy(
            discipline=self.discipline,
            chunk_tokens=18,
            max_batch_requests=3,
            queue_limit=6,
            max_wait_seconds=3.0,
            min_chunk_tokens=4,
            chunk_seconds=2.0,
            max_age_seconds=6.0,
            top_up_share=0.5,  # 4 tokens for each long prompt that waits
        )
        self.cache = PrefixCache(NUM_BLOCKS)
        self.scheduler = PrefillScheduler(self.policy, OBJECTIVES, self.cache, BLOCK_SIZE)
        self.prompts: dict[RequestId, Prompt] = {}  # not released, in the order of arrival
        self.pinned: dict[RequestId, Prompt] = {}  # released in the running batch
        self.contents: dict[int, tuple[int, int]] = {}  # block -> family, index; of full blocks
        self.batch: PrefillBatch | None = None
        self.num_enqueued = 0
        self.now = 0.0

    def waiting(self) -> list[Prompt]:
        return [prompt for prompt in self.prompts.values() if prompt.is_waiting]

    @precondition(lambda self: len(self.waiting()) < self.policy.queue_limit)
    @rule(
        family=st.integers(0, 1),
        num_tokens=st.integers(1, NUM_BLOCKS * BLOCK_SIZE),
        patience=st.integers(0, 20),
        priority=st.integers(-1, 1),
        returning=st.booleans(),
    )
    def enqueue(
        self, family: int, num_tokens: int, patience: int, priority: int, returning: bool
    ) -> None:
        job = PrefillJob(
            request_id=RequestId(f"r{self.num_enqueued}"),
            num_tokens=num_tokens,
            arrived_at=self.now,
            deadline_at=self.now + patience,
            hashes=tuple(block_hashes([family] * num_tokens, BLOCK_SIZE, b"")),
            priority=priority,
            returning=returning,
        )
        self.num_enqueued += 1
        self.scheduler.enqueue(job)
        self.prompts[job.request_id] = Prompt(family, job)

    @precondition(lambda self: self.batch is None)
    @rule()
    def next_batch(self) -> None:
        self.batch = self.scheduler.next_batch(self.now, COST, SHORT_TOKENS)
        if self.batch is None:
            self.check_idle()
            return
        chunks = self.batch.chunks
        assert len(chunks) <= self.policy.max_batch_requests
        assert self.batch.num_tokens <= self.policy.chunk_tokens
        assert len({chunk.request_id for chunk in chunks}) == len(chunks)
        assert self.batch.rule in batch_rules(self.policy.discipline)
        assert self.batch.reason.startswith(f"{self.batch.rule}: ")
        started = [c.request_id for c in chunks if self.prompts[c.request_id].num_computed is None]
        for chunk in chunks:
            prompt = self.prompts[chunk.request_id]
            if prompt.num_computed is None:
                self.check_begin(prompt, chunk.start)
            assert prompt.num_computed is not None
            missing = prompt.job.num_tokens - prompt.num_computed
            assert chunk.start == prompt.num_computed
            assert 1 <= chunk.num_tokens <= missing
            assert chunk.is_last == (chunk.num_tokens == missing)
            assert chunk.is_last or (chunk.start + chunk.num_tokens) % BLOCK_SIZE == 0
            self.write(prompt, chunk.start, chunk.start + chunk.num_tokens)
        if self.discipline == "length_aware":
            self.check_classes(started)

    def check_idle(self) -> None:
        """Only a window that is open, or a lack of blocks, leaves prompts waiting."""
        wake_at = self.scheduler.wake_at
        if wake_at is not None:
            assert self.scheduler.queue_length("long").requests == 0
            assert self.now < wake_at <= self.now + self.policy.max_wait_seconds
        elif self.waiting():
            assert all(prompt.num_computed is None for prompt in self.waiting())
            assert self.cache.num_free < NUM_BLOCKS

    def check_begin(self, prompt: Prompt, start: int) -> None:
        """The blocks before `start` hold what they should, the others belong to no other one."""
        block_ids = self.scheduler.block_ids(prompt.job.request_id)
        assert len(block_ids) == blocks_for(prompt.job.num_tokens, BLOCK_SIZE)
        assert start % BLOCK_SIZE == 0
        assert start < prompt.job.num_tokens
        assert self.scheduler.num_cached_tokens(prompt.job.request_id) == start
        for index, block_id in enumerate(block_ids[: start // BLOCK_SIZE]):
            assert self.contents[block_id] == (prompt.family, index)
        others = [*self.prompts.values(), *self.pinned.values()]
        fresh = set(block_ids[start // BLOCK_SIZE :])
        assert all(fresh.isdisjoint(other.block_ids) for other in others)
        for block_id in fresh:
            self.contents.pop(block_id, None)
        prompt.block_ids = block_ids
        prompt.num_computed = start

    def write(self, prompt: Prompt, start: int, end: int) -> None:
        for index in range(start // BLOCK_SIZE, -(-end // BLOCK_SIZE)):
            assert prompt.block_ids[index] not in self.contents  # it would be overwritten
        for index in range(start // BLOCK_SIZE, end // BLOCK_SIZE):
            self.contents[prompt.block_ids[index]] = (prompt.family, index)

    def check_classes(self, started: Sequence[RequestId]) -> None:
        assert self.batch is not None
        length = self.batch.length
        lengths = [self.scheduler.length_class(c.request_id) for c in self.batch.chunks]
        for request_id in started:
            prompt = self.prompts[request_id]
            assert prompt.num_computed is not None
            residual = prompt.job.num_tokens - prompt.num_computed
            assert length_class(residual, SHORT_TOKENS) == self.scheduler.length_class(request_id)
        if length == "mixed":  # short ones, topped up with long ones
            assert self.batch.num_tokens <= int(4.5 * len(self.prompts))
            assert lengths == sorted(lengths, reverse=True)
            return
        assert set(lengths) == {length}
        # Of those that have begun, none is left behind for one of lower priority.
        in_batch = {chunk.request_id for chunk in self.batch.chunks}
        least = min(self.prompts[request_id].job.priority for request_id in in_batch)
        for request_id, prompt in self.prompts.items():
            if request_id in in_batch or prompt.num_computed is None or not prompt.is_waiting:
                continue
            if self.scheduler.length_class(request_id) == length:
                assert prompt.job.priority <= least

    @precondition(lambda self: self.batch is not None)
    @rule()
    def computed(self) -> None:
        assert self.batch is not None
        complete = self.scheduler.computed(self.batch)
        expected = []
        for chunk in self.batch.chunks:
            if self.pinned.pop(chunk.request_id, None) is None:
                self.prompts[chunk.request_id].num_computed = chunk.start + chunk.num_tokens
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

    @rule(seconds=st.sampled_from([0.5, 2.0, 9.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        expired = {
            request_id
            for request_id, prompt in self.prompts.items()
            if prompt.job.deadline_at <= self.now
        }
        assert set(self.scheduler.expired(self.now)) == expired

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        check_cache(self.cache)
        owners = [*self.prompts.values(), *self.pinned.values()]
        held = {block_id for prompt in owners for block_id in prompt.block_ids}
        assert self.cache.num_free == NUM_BLOCKS - len(held)

    @invariant()
    def the_queue_is_counted_exactly(self) -> None:
        waiting = self.waiting()
        assert self.scheduler.num_queued == len(waiting)
        counted = [self.scheduler.queue_length(length) for length in LENGTH_CLASSES]
        assert sum(each.requests for each in counted) == len(waiting)
        assert all(each.tokens >= each.requests for each in counted)
        begun = [p.job.num_tokens - p.num_computed for p in waiting if p.num_computed is not None]
        assert sum(each.tokens for each in counted) >= sum(begun)

    def teardown(self) -> None:
        """Everything ends: the queue empties when computed prompts are released."""
        if self.batch:
            self.computed()
        for _ in range(1000):
            for request_id in [r for r, p in self.prompts.items() if not p.is_waiting]:
                self.scheduler.release(request_id)
                del self.prompts[request_id]
            if not self.prompts:
                break
            self.next_batch()
            if self.batch is None:
                assert self.scheduler.wake_at is not None
                self.now = self.scheduler.wake_at
            else:
                self.computed()
        assert not self.prompts
        assert self.cache.num_free == NUM_BLOCKS


@pytest.mark.parametrize("discipline", ["length_aware", "short_first", "fcfs"])
def test_any_order_of_calls_keeps_the_rules(discipline: DisciplineName) -> None:
    machine = type("Machine", (PrefillMachine,), {"discipline": discipline})
    run_state_machine_as_test(machine)
