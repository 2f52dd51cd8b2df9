"""DecodeScheduler under any order of calls, with up to two steps in flight: no block is lost, freed
too early or shared wrongly, no token is skipped, no request overtakes, and all finish."""

import pytest
from harness.block_integrity import check_cache
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from policy.decode.decode_model import DecodeWorkerModel, Request

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.decode.policy import AdmissionName, DecodePolicy, PastFuturePolicy
from lengthwise_policy.decode.scheduler import MAX_IN_FLIGHT
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import QueueFull
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 4
NUM_BLOCKS = 16
# Prompts begin alike in two families, so that most share blocks with some other.
FAMILIES = ([1, 2, 3, 4] * 10, [1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 0, 0] + [5] * 28)
SLOW = CostModel(
    step_seconds=0.01,
    token_seconds=0.01,
    attention_seconds=1e-4,
    history_seconds=1e-4,
    decode_request_seconds=0.02,
    decode_context_seconds=0.0,
)


class DecodeMachine(RuleBasedStateMachine):
    admission: AdmissionName = "past_future"

    def __init__(self) -> None:
        super().__init__()
        policy = DecodePolicy(
            max_running=3,
            queue_limit=4,
            step_tokens=11,
            admission=self.admission,
            past_future=PastFuturePolicy(window=40, reserve=0.0),
        )
        self.worker = DecodeWorkerModel(policy, NUM_BLOCKS, BLOCK_SIZE)
        self.now = 0.0
        # Outputs used to be short: what comes now is taken for short too, and memory runs out.
        for count in (2, 3, 4, 5, 6) * 8:
            self.worker.reserve([9], count, local=True)
            self.worker.run()

    def pick(self, states: dict[RequestId, Request], index: int) -> RequestId:
        return list(states)[index % len(states)]

    def filling(self) -> dict[RequestId, Request]:
        return {name: each for name, each in self.worker.admitted.items() if each.filling}

    @rule(
        family=st.sampled_from(FAMILIES),
        num_tokens=st.integers(1, 40),
        max_new_tokens=st.integers(1, 24),
        stops_after=st.integers(1, 24),
        local=st.booleans(),
        returning=st.booleans(),
        priority=st.sampled_from([0, 0, 0, 1]),
        patience=st.integers(0, 9),
    )
    def reserve(
        self,
        family: list[int],
        num_tokens: int,
        max_new_tokens: int,
        stops_after: int,
        local: bool,
        returning: bool,
        priority: int,
        patience: int,
    ) -> None:
        is_full = len(self.worker.queued) >= self.worker.policy.queue_limit
        try:
            self.worker.reserve(
                family[:num_tokens],
                max_new_tokens,
                local=local,
                returning=returning,
                priority=priority,
                deadline_at=self.now + patience,
                stops_after=stops_after,
            )
        except QueueFull:
            assert is_full

    @rule()
    def take_granted(self) -> None:
        self.worker.take_granted()
        if self.worker.queued and not self.worker.admitted and not self.worker.draining:
            assert self.worker.flights, "nothing holds a block, and still all wait"

    @precondition(lambda self: self.filling())
    @rule(index=st.integers(0))
    def arrive(self, index: int) -> None:
        self.worker.arrive(self.pick(self.filling(), index))

    @precondition(lambda self: len(self.worker.flights) < MAX_IN_FLIGHT)
    @rule(cost=st.sampled_from([PRIOR, SLOW]))
    def next_step(self, cost: CostModel) -> None:
        worker = self.worker
        step = worker.next_step(cost)
        if step is None:
            return
        assert step.reason.startswith(f"{step.rule}: ")
        active = [each.seniority for each in worker.admitted.values() if not each.filling]
        for request_id in step.preempted:
            assert all(worker.queued[request_id].seniority > senior for senior in active)
        assert not (step.preempted and self.admission == "worst_case")
        order = [worker.admitted[request_id].seniority for request_id in step.request_ids]
        assert order == sorted(order)
        self.check_seconds(step, cost)

    def check_seconds(self, step: DecodeStep, cost: CostModel) -> None:
        """Chunks keep the step within the objective; the first may be one block all the same."""
        if not step.request_ids or not step.chunks:
            return
        if len(step.chunks) == 1 and step.chunks[0].num_tokens <= BLOCK_SIZE:
            return
        rows = [job for job in self.worker.flights[-1].jobs if job.end == job.start + 1]
        context = sum(
            job.end for job in rows if job.request.reservation.request_id in step.request_ids
        )
        seconds = cost.decode_step_seconds(len(step.request_ids), context)
        seconds += sum(cost.chunk_seconds(each.num_tokens, each.start) for each in step.chunks)
        forced = cost.chunk_seconds(BLOCK_SIZE, step.chunks[0].start)
        assert seconds <= Objectives().tpot_seconds + forced

    @rule(turns=st.integers(1, 8), ahead=st.booleans())
    def steps(self, turns: int, ahead: bool) -> None:
        for _ in range(turns):
            while len(self.worker.flights) > ahead:
                self.emitted()
            self.next_step(PRIOR)
            self.take_granted()

    @precondition(lambda self: self.worker.flights)
    @rule()
    def compute(self) -> None:
        self.worker.compute()

    @precondition(lambda self: self.worker.flights)
    @rule()
    def emitted(self) -> None:
        self.worker.emitted()

    @precondition(lambda self: self.worker.queued or self.worker.admitted)
    @rule(index=st.integers(0), receiving=st.booleans())
    def release(self, index: int, receiving: bool) -> None:
        request_id = self.pick(self.worker.queued | self.worker.admitted, index)
        self.worker.release(request_id, receiving=receiving and request_id in self.filling())
        assert not self.worker.scheduler.release(request_id)

    @precondition(lambda self: self.worker.draining)
    @rule(index=st.integers(0))
    def drained(self, index: int) -> None:
        self.worker.drained(self.pick(self.worker.draining, index))

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        held = self.worker.queued | self.worker.admitted
        assert set(self.worker.scheduler.expired(self.now)) == {
            name for name, each in held.items() if each.reservation.deadline_at <= self.now
        }

    @invariant()
    def blocks_are_accounted_for(self) -> None:
        worker = self.worker
        check_cache(worker.blocks)
        held = {block for each in worker.draining.values() for block in each.block_ids}
        for request_id in worker.admitted:
            held.update(worker.scheduler.block_ids(request_id))
        for flight in worker.flights:
            held.update(block for job in flight.jobs for block in job.request.block_ids)
        assert len(held) == NUM_BLOCKS - worker.blocks.num_free

    @invariant()
    def the_states_are_counted_exactly(self) -> None:
        scheduler, worker = self.worker.scheduler, self.worker
        assert scheduler.num_queued == len(worker.queued)
        assert scheduler.queued_tokens == sum(
            each.reservation.kv_tokens for each in worker.queued.values()
        )
        assert scheduler.num_reserved == len(self.filling())
        assert scheduler.num_running == len(worker.admitted) - len(self.filling())
        assert 0 <= scheduler.predicted_blocks() <= NUM_BLOCKS

    def teardown(self) -> None:
        """Transfers end, steps go on: then everybody finishes."""
        while self.worker.flights:
            self.worker.emitted()
        for request_id in list(self.worker.draining):
            self.worker.drained(request_id)
        self.worker.run(ahead=True)
        assert self.worker.blocks.num_free == NUM_BLOCKS


class WorstCaseMachine(DecodeMachine):
    admission = "worst_case"


class FreeNowMachine(DecodeMachine):
    admission = "free_now"


TestDecodeMachine = DecodeMachine.TestCase
TestWorstCaseMachine = pytest.mark.slow(WorstCaseMachine.TestCase)
TestFreeNowMachine = pytest.mark.slow(FreeNowMachine.TestCase)
