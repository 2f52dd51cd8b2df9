"""DecodeScheduler by example: reservations, the queue, steps, blocks that may not be freed yet."""

import math

import pytest

from lengthwise_policy.blocks import BlockPool
from lengthwise_policy.decode import DecodePolicy, DecodeScheduler, Reservation
from lengthwise_policy.errors import DuplicateRequest, NeverFits, QueueFull, UnknownRequest
from lengthwise_policy.types import DecodeStep, RequestId

BLOCK_SIZE = 16
A, B, C = RequestId("a"), RequestId("b"), RequestId("c")


def scheduler(
    *, num_blocks: int = 100, max_running: int = 256, queue_limit: int = 2
) -> tuple[DecodeScheduler, BlockPool]:
    pool = BlockPool(num_blocks)
    policy = DecodePolicy(max_running=max_running, queue_limit=queue_limit)
    return DecodeScheduler(policy, pool, BLOCK_SIZE), pool


def reservation(
    request_id: RequestId,
    *,
    num_tokens: int = 16,
    max_new_tokens: int = 17,
    deadline_at: float = math.inf,
) -> Reservation:
    """Two blocks unless said otherwise."""
    return Reservation(
        request_id=request_id,
        num_tokens=num_tokens,
        max_new_tokens=max_new_tokens,
        deadline_at=deadline_at,
    )


def start(decode: DecodeScheduler, *request_ids: RequestId, max_new_tokens: int = 17) -> None:
    for request_id in request_ids:
        assert decode.reserve(reservation(request_id, max_new_tokens=max_new_tokens))
        decode.commit(request_id)


def run_step(decode: DecodeScheduler) -> tuple[RequestId, ...]:
    step = decode.next_step()
    return decode.emitted(step) if step else ()


@pytest.mark.parametrize(
    ("num_tokens", "max_new_tokens", "num_blocks"),
    [
        pytest.param(16, 1, 1, id="one new token"),
        pytest.param(16, 2, 2, id="two new tokens"),
        pytest.param(16, 17, 2, id="seventeen new tokens"),
        pytest.param(16, 18, 3, id="eighteen new tokens"),
    ],
)
def test_a_reservation_takes_exactly_the_worst_case(
    num_tokens: int, max_new_tokens: int, num_blocks: int
) -> None:
    decode, pool = scheduler()
    assert decode.reserve(reservation(A, num_tokens=num_tokens, max_new_tokens=max_new_tokens))
    assert len(decode.block_ids(A)) == num_blocks == 100 - pool.num_free


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5])
def test_a_request_gets_no_more_steps_than_it_reserved_for(max_new_tokens: int) -> None:
    decode, _ = scheduler()
    start(decode, A, max_new_tokens=max_new_tokens)
    steps = 0
    while run_step(decode):
        steps += 1
    assert steps == max_new_tokens - 1  # the first token comes from the prefill worker
    assert decode.num_running == 1


def test_only_committed_requests_run_and_in_the_order_of_their_commits() -> None:
    decode, _ = scheduler()
    for request_id in (A, B, C):
        decode.reserve(reservation(request_id))
    decode.commit(C)
    decode.commit(A)
    assert run_step(decode) == (C, A)
    decode.commit(B)
    assert run_step(decode) == (C, A, B)
    assert (decode.num_reserved, decode.num_running) == (0, 3)


def test_no_step_is_larger_than_the_limit_and_the_next_in_line_follows() -> None:
    decode, _ = scheduler(max_running=2)
    start(decode, A, B, C)
    assert run_step(decode) == (A, B)
    decode.release(A)
    assert run_step(decode) == (B, C)


def test_what_does_not_fit_waits_and_is_granted_in_order() -> None:
    decode, _ = scheduler(num_blocks=4)
    assert decode.reserve(reservation(A, max_new_tokens=33))  # 3 of 4 blocks
    assert not decode.reserve(reservation(B, max_new_tokens=33))
    assert not decode.reserve(reservation(C, max_new_tokens=1))  # would fit, but may not overtake
    assert (decode.num_queued, decode.queued_tokens) == (2, 48 + 16)
    assert decode.take_granted() == []
    with pytest.raises(UnknownRequest, match="a queued one"):
        decode.commit(B)
    decode.release(A)
    assert decode.take_granted() == [B, C]
    assert (decode.num_queued, decode.queued_tokens, decode.num_reserved) == (0, 0, 2)


def test_a_queued_reservation_that_is_released_makes_way() -> None:
    decode, _ = scheduler(num_blocks=4)
    decode.reserve(reservation(A, max_new_tokens=33))
    decode.reserve(reservation(B, max_new_tokens=33))
    decode.reserve(reservation(C, max_new_tokens=1))
    assert decode.release(B)
    assert decode.take_granted() == [C]


def test_a_request_released_in_the_running_step_keeps_its_blocks_until_the_step_has_ended() -> None:
    decode, pool = scheduler()
    start(decode, A, B)
    step = decode.next_step()
    assert step is not None
    assert decode.release(A)
    assert not decode.release(A)
    assert (pool.num_free, decode.num_draining, decode.num_running) == (96, 1, 1)
    with pytest.raises(DuplicateRequest):
        decode.reserve(reservation(A))
    assert decode.emitted(step) == (B,)
    assert (pool.num_free, decode.num_draining) == (98, 0)
    assert decode.reserve(reservation(A))


def test_a_reservation_that_still_receives_keeps_its_blocks_until_it_is_drained() -> None:
    decode, pool = scheduler(num_blocks=2)
    decode.reserve(reservation(A))
    decode.reserve(reservation(B))
    assert decode.release(A, receiving=True)
    assert decode.num_draining == 1
    assert decode.take_granted() == []
    with pytest.raises(UnknownRequest, match="a released one"):
        decode.commit(A)
    with pytest.raises(UnknownRequest, match="a released one"):
        decode.block_ids(A)
    assert not decode.release(A)  # a second cancel does not free them either
    assert decode.take_granted() == []
    assert decode.drained(A)
    assert not decode.drained(A)
    assert decode.take_granted() == [B]
    assert pool.num_free == 0


def test_a_request_that_runs_and_receives_waits_for_both() -> None:
    decode, pool = scheduler()
    start(decode, A)
    step = decode.next_step()
    assert step is not None
    decode.release(A, receiving=True)
    decode.emitted(step)
    assert pool.num_free == 98
    decode.drained(A)
    assert pool.num_free == 100


def test_nothing_drains_that_was_not_released_while_receiving() -> None:
    decode, _ = scheduler()
    start(decode, A)
    assert not decode.drained(A)
    assert not decode.drained(B)
    assert decode.num_running == 1


def test_a_request_larger_than_the_cache_is_refused_at_once() -> None:
    decode, _ = scheduler(num_blocks=2)
    with pytest.raises(NeverFits, match=r"18 new ones need 3 blocks, the cache has 2"):
        decode.reserve(reservation(A, max_new_tokens=18))


def test_a_full_queue_refuses() -> None:
    decode, _ = scheduler(num_blocks=2)
    for request_id in (A, B, C):
        decode.reserve(reservation(request_id))
    with pytest.raises(QueueFull, match="2 reservations wait, the limit is 2"):
        decode.reserve(reservation(RequestId("d")))


@pytest.mark.parametrize("request_id", [A, B], ids=["reserved", "queued"])
def test_an_id_is_held_once(request_id: RequestId) -> None:
    decode, _ = scheduler(num_blocks=2)
    decode.reserve(reservation(A))
    decode.reserve(reservation(B))
    with pytest.raises(DuplicateRequest, match="holds this id already"):
        decode.reserve(reservation(request_id))


@pytest.mark.parametrize(
    ("request_id", "state"),
    [pytest.param(A, "a running one", id="twice"), pytest.param(C, "nothing", id="unknown")],
)
def test_only_a_reservation_can_be_committed(request_id: RequestId, state: str) -> None:
    decode, _ = scheduler()
    start(decode, A)
    with pytest.raises(UnknownRequest, match=f"expected a granted reservation, got {state}"):
        decode.commit(request_id)


def test_expired_requests_are_named_in_every_state_until_they_are_released() -> None:
    decode, _ = scheduler(num_blocks=4)
    decode.reserve(reservation(A, deadline_at=3.0))
    decode.reserve(reservation(B, deadline_at=2.0))
    decode.reserve(reservation(C, deadline_at=1.0))
    decode.commit(A)
    assert decode.expired(now=0.5) == ()
    assert decode.expired(now=3.0) == (C, B, A)
    decode.release(B, receiving=True)
    assert decode.expired(now=3.0) == (C, A)


def test_only_one_step_runs_at_a_time() -> None:
    decode, _ = scheduler()
    start(decode, A)
    step = decode.next_step()
    assert step == DecodeStep(request_ids=(A,))
    with pytest.raises(RuntimeError, match="the last step is running"):
        decode.next_step()
    decode.emitted(step)
    with pytest.raises(ValueError, match="expected the running step None"):
        decode.emitted(step)
