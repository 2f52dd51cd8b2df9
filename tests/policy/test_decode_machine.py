"""DecodeScheduler under any order of calls: no block lost or freed too early, nobody overtakes."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lengthwise_policy.blocks import BlockPool
from lengthwise_policy.decode import DecodePolicy, DecodeScheduler, Reservation
from lengthwise_policy.types import DecodeStep, RequestId

BLOCK_SIZE = 4
NUM_BLOCKS = 20
POLICY = DecodePolicy(max_running=3, queue_limit=4)


class Held:
    """What the test knows of a request that holds blocks."""

    def __init__(self, reservation: Reservation, block_ids: tuple[int, ...]) -> None:
        self.reservation = reservation
        self.block_ids = block_ids
        self.steps_left = reservation.max_new_tokens - 1
        self.receiving = False


class DecodeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.scheduler = DecodeScheduler(POLICY, self.pool, BLOCK_SIZE)
        self.queued: dict[RequestId, Reservation] = {}
        self.reserved: dict[RequestId, Held] = {}
        self.running: dict[RequestId, Held] = {}
        self.released: dict[RequestId, Held] = {}  # its blocks are still written
        self.step: DecodeStep | None = None
        self.num_reservations = 0
        self.now = 0.0

    def granted(self, reservation: Reservation) -> None:
        slots = reservation.num_tokens + reservation.max_new_tokens - 1
        block_ids = self.scheduler.block_ids(reservation.request_id)
        assert (len(block_ids) - 1) * BLOCK_SIZE < slots <= len(block_ids) * BLOCK_SIZE
        for states in (self.reserved, self.running, self.released):
            assert all(set(block_ids).isdisjoint(held.block_ids) for held in states.values())
        self.reserved[reservation.request_id] = Held(reservation, block_ids)

    @precondition(lambda self: len(self.queued) < POLICY.queue_limit)
    @rule(
        num_tokens=st.integers(1, 40), max_new_tokens=st.integers(1, 41), patience=st.integers(0, 9)
    )
    def reserve(self, num_tokens: int, max_new_tokens: int, patience: int) -> None:
        reservation = Reservation(
            request_id=RequestId(f"r{self.num_reservations}"),
            num_tokens=num_tokens,
            max_new_tokens=max_new_tokens,
            deadline_at=self.now + patience,
        )
        self.num_reservations += 1
        fits = -(-(num_tokens + max_new_tokens - 1) // BLOCK_SIZE) <= self.pool.num_free
        granted = self.scheduler.reserve(reservation)
        assert granted == (fits and not self.queued)
        if granted:
            self.granted(reservation)
        else:
            self.queued[reservation.request_id] = reservation

    @rule()
    def take_granted(self) -> None:
        in_line = list(self.queued)
        granted = self.scheduler.take_granted()
        assert granted == in_line[: len(granted)]
        for request_id in granted:
            self.granted(self.queued.pop(request_id))
        if self.queued:
            first = next(iter(self.queued.values()))
            assert first.kv_tokens > self.pool.num_free * BLOCK_SIZE

    @precondition(lambda self: self.reserved)
    @rule(pick=st.integers(0))
    def commit(self, pick: int) -> None:
        request_id = list(self.reserved)[pick % len(self.reserved)]
        self.scheduler.commit(request_id)
        self.running[request_id] = self.reserved.pop(request_id)

    @precondition(lambda self: self.step is None)
    @rule()
    def next_step(self) -> None:
        unfinished = [request_id for request_id, held in self.running.items() if held.steps_left]
        self.step = self.scheduler.next_step()
        planned = self.step.request_ids if self.step else ()
        assert list(planned) == unfinished[: POLICY.max_running]

    @precondition(lambda self: self.step is not None)
    @rule()
    def emitted(self) -> None:
        assert self.step is not None
        step, self.step = self.step, None
        kept = self.scheduler.emitted(step)
        assert kept == tuple(i for i in step.request_ids if i in self.running)
        for request_id in step.request_ids:
            if request_id in self.running:
                self.running[request_id].steps_left -= 1
            else:
                self.forget_unless_written(request_id)

    def forget_unless_written(self, request_id: RequestId) -> None:
        in_step = self.step is not None and request_id in self.step.request_ids
        if not in_step and not self.released[request_id].receiving:
            del self.released[request_id]

    @precondition(lambda self: self.queued or self.reserved or self.running)
    @rule(pick=st.integers(0), receiving=st.booleans())
    def release(self, pick: int, receiving: bool) -> None:
        request_ids = [*self.queued, *self.reserved, *self.running]
        request_id = request_ids[pick % len(request_ids)]
        assert self.scheduler.release(request_id, receiving=receiving)
        assert not self.scheduler.release(request_id)
        if self.queued.pop(request_id, None) is None:
            state = self.reserved if request_id in self.reserved else self.running
            self.released[request_id] = state.pop(request_id)
            self.released[request_id].receiving = receiving
            self.forget_unless_written(request_id)

    @precondition(lambda self: any(held.receiving for held in self.released.values()))
    @rule(pick=st.integers(0))
    def drained(self, pick: int) -> None:
        receiving = [i for i, held in self.released.items() if held.receiving]
        request_id = receiving[pick % len(receiving)]
        assert self.scheduler.drained(request_id)
        self.released[request_id].receiving = False
        self.forget_unless_written(request_id)

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        leases = [
            *self.queued.values(),
            *(held.reservation for held in (*self.reserved.values(), *self.running.values())),
        ]
        assert set(self.scheduler.expired(self.now)) == {
            lease.request_id for lease in leases if lease.deadline_at <= self.now
        }

    @invariant()
    def every_block_has_one_owner(self) -> None:
        self.pool.check_integrity()
        states = (self.reserved, self.running, self.released)
        held = sum(len(held.block_ids) for state in states for held in state.values())
        assert self.pool.num_free == NUM_BLOCKS - held

    @invariant()
    def the_states_are_counted_exactly(self) -> None:
        assert self.scheduler.num_queued == len(self.queued)
        assert self.scheduler.queued_tokens == sum(r.kv_tokens for r in self.queued.values())
        assert self.scheduler.num_reserved == len(self.reserved)
        assert self.scheduler.num_running == len(self.running)
        assert self.scheduler.num_draining == len(self.released)

    def teardown(self) -> None:
        """Everything ends: the queue empties when what runs is released."""
        if self.step:
            self.emitted()
        while any(held.receiving for held in self.released.values()):
            self.drained(0)
        self.take_granted()
        while self.reserved or self.running:
            self.release(len(self.queued), receiving=False)
            self.take_granted()
        assert not self.queued
        assert self.pool.num_free == NUM_BLOCKS


TestDecodeMachine = DecodeMachine.TestCase
TestDecodeMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
