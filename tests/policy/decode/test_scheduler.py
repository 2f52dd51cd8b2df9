"""DecodeScheduler by example: reservations, the queue, steps, blocks that may not be freed yet."""

import math
from collections.abc import Sequence
from random import Random

import pytest

from lengthwise_policy.decode.policy import AdmissionName, DecodePolicy, PastFuturePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import DuplicateRequest, NeverFits, QueueFull, UnknownRequest
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import PromptChunk, RequestId

BLOCK_SIZE = 16
A, B, C, D = (RequestId(name) for name in "abcd")


def scheduler(
    *,
    num_blocks: int = 100,
    max_running: int = 256,
    queue_limit: int = 2,
    admission: AdmissionName = "past_future",
    reserve: float = 0.0,
) -> tuple[DecodeScheduler, PrefixCache]:
    blocks = PrefixCache(num_blocks)
    policy = DecodePolicy(
        max_running=max_running,
        queue_limit=queue_limit,
        admission=admission,
        past_future=PastFuturePolicy(reserve=reserve),
    )
    return DecodeScheduler(policy, Objectives(), blocks, BLOCK_SIZE, Random(1).random), blocks


def reservation(
    request_id: RequestId,
    *,
    num_tokens: int = 16,
    max_new_tokens: int = 17,
    deadline_at: float = math.inf,
    local: bool = False,
    priority: int = 0,
    hashes: Sequence[BlockHash] = (),
) -> Reservation:
    """One block now, two in the end, unless said otherwise."""
    return Reservation(
        request_id=request_id,
        num_tokens=num_tokens,
        max_new_tokens=max_new_tokens,
        deadline_at=deadline_at,
        local=local,
        priority=priority,
        hashes=hashes,
    )


def start(decode: DecodeScheduler, *request_ids: RequestId, max_new_tokens: int = 17) -> None:
    for request_id in request_ids:
        assert decode.reserve(reservation(request_id, max_new_tokens=max_new_tokens))
        decode.commit(request_id)


def run_step(decode: DecodeScheduler) -> tuple[RequestId, ...]:
    step = decode.next_step()
    return decode.emitted(step) if step else ()


def granted(decode: DecodeScheduler) -> list[RequestId]:
    return [grant.request_id for grant in decode.take_granted()]


def test_a_grant_takes_the_blocks_of_the_prompt_and_growth_takes_one_at_a_time() -> None:
    decode, blocks = scheduler()
    grant = decode.reserve(reservation(A, num_tokens=33, max_new_tokens=40))
    assert grant
    assert grant.reason == "nothing runs: at most 5 blocks, 100 can be had"
    assert len(grant.block_ids) == 3 == 100 - blocks.num_free
    decode.commit(A)
    held = []
    while run_step(decode):
        held.append(len(decode.block_ids(A)))
    # Slot 33 is for the first step, slot 71 for the last.
    assert held == [3] * 15 + [4] * 16 + [5] * 8


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5])
def test_a_request_gets_no_more_steps_than_it_reserved_for(max_new_tokens: int) -> None:
    decode, _ = scheduler()
    start(decode, A, max_new_tokens=max_new_tokens)
    steps = 0
    while run_step(decode):
        steps += 1
    assert steps == max_new_tokens - 1  # the first token comes from the prefill worker
    assert decode.num_running == 1


def test_only_committed_requests_run_and_the_most_senior_first() -> None:
    decode, _ = scheduler()
    for request_id, priority in ((A, 0), (B, 0), (C, 1)):
        decode.reserve(reservation(request_id, priority=priority))
    decode.commit(B)
    decode.commit(A)
    assert run_step(decode) == (A, B)
    decode.commit(C)
    assert run_step(decode) == (C, A, B)
    assert (decode.num_reserved, decode.num_running) == (0, 3)


def test_no_step_decodes_more_than_the_limit_and_the_next_in_line_follows() -> None:
    decode, _ = scheduler(max_running=2)
    start(decode, A, B, C)
    assert run_step(decode) == (A, B)
    decode.release(A)
    assert run_step(decode) == (B, C)


def test_what_does_not_fit_waits_and_is_granted_in_order_of_priority() -> None:
    decode, _ = scheduler(num_blocks=4, queue_limit=3)
    assert decode.reserve(reservation(A, max_new_tokens=33))  # 3 of 4 blocks in the end
    assert not decode.reserve(reservation(B, max_new_tokens=33))
    assert not decode.reserve(reservation(C, max_new_tokens=1))  # would fit, but may not overtake
    assert not decode.reserve(reservation(D, max_new_tokens=33, priority=1))
    assert (decode.num_queued, decode.queued_tokens) == (3, 48 + 16 + 48)
    assert granted(decode) == []
    with pytest.raises(UnknownRequest, match="a queued one"):
        decode.commit(B)
    decode.release(A)
    assert granted(decode) == [D]
    decode.release(D)
    assert granted(decode) == [B, C]
    assert (decode.num_queued, decode.queued_tokens, decode.num_reserved) == (0, 0, 2)


def test_who_has_priority_is_granted_before_those_that_wait() -> None:
    decode, _ = scheduler(num_blocks=4)
    decode.reserve(reservation(A, max_new_tokens=33))
    assert not decode.reserve(reservation(B, max_new_tokens=33))
    assert decode.reserve(reservation(C, max_new_tokens=1, priority=1))


def test_a_queued_reservation_that_is_released_makes_way() -> None:
    decode, _ = scheduler(num_blocks=4)
    decode.reserve(reservation(A, max_new_tokens=33))
    decode.reserve(reservation(B, max_new_tokens=33))
    decode.reserve(reservation(C, max_new_tokens=1))
    assert decode.release(B)
    assert granted(decode) == [C]


def test_worst_case_admission_counts_limits_and_blocks_that_drain() -> None:
    decode, _ = scheduler(num_blocks=5, admission="worst_case")
    assert decode.reserve(reservation(A))
    grant = decode.reserve(reservation(B))
    assert grant
    assert grant.reason == "fits: worst case of 4 blocks with 1 running, the cache has 5"
    assert not decode.reserve(reservation(C))
    decode.release(B, receiving=True)
    assert granted(decode) == [C]  # B drains one block, A and C may take four


def test_free_now_admission_looks_at_nothing_but_free_blocks_and_leaves_the_reserve() -> None:
    decode, _ = scheduler(num_blocks=5, admission="free_now", reserve=0.2)
    for request_id in (A, B, C):
        assert decode.reserve(reservation(request_id, max_new_tokens=60))
    grant = decode.reserve(reservation(D, max_new_tokens=60))
    assert grant
    assert grant.reason == "fits: 1 blocks with 3 running, 2 are free, 1 stay"
    assert not decode.reserve(reservation(RequestId("e"), max_new_tokens=1))


def test_a_request_released_in_the_running_step_keeps_its_blocks_until_the_step_has_ended() -> None:
    decode, blocks = scheduler()
    start(decode, A, B)
    step = decode.next_step()
    assert step is not None
    assert decode.release(A)
    assert not decode.release(A)
    assert (blocks.num_free, decode.num_running) == (96, 1)
    with pytest.raises(DuplicateRequest):
        decode.reserve(reservation(A))
    assert decode.emitted(step) == (B,)
    assert blocks.num_free == 98
    assert decode.reserve(reservation(A))


def test_a_reservation_that_still_receives_keeps_its_blocks_until_it_is_drained() -> None:
    decode, blocks = scheduler(num_blocks=2)
    decode.reserve(reservation(A, num_tokens=32, max_new_tokens=1))
    decode.reserve(reservation(B, num_tokens=32, max_new_tokens=1))
    assert decode.release(A, receiving=True)
    assert blocks.num_free == 0
    assert granted(decode) == []
    with pytest.raises(UnknownRequest, match="a draining one"):
        decode.commit(A)
    with pytest.raises(UnknownRequest, match="a draining one"):
        decode.block_ids(A)
    assert not decode.release(A)  # a second cancel does not free them either
    assert granted(decode) == []
    assert decode.drained(A)
    assert not decode.drained(A)
    assert granted(decode) == [B]
    assert blocks.num_free == 0


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
        decode.reserve(reservation(D))


@pytest.mark.parametrize("request_id", [A, B], ids=["reserved", "queued"])
def test_an_id_is_held_once(request_id: RequestId) -> None:
    decode, _ = scheduler(num_blocks=2)
    decode.reserve(reservation(A))
    decode.reserve(reservation(B))
    with pytest.raises(DuplicateRequest, match="holds this id already"):
        decode.reserve(reservation(request_id))


@pytest.mark.parametrize(
    ("request_id", "phase"),
    [
        pytest.param(A, "a running one", id="twice"),
        pytest.param(B, "a computing one", id="local"),
        pytest.param(C, "nothing of this id", id="unknown"),
    ],
)
def test_only_what_a_transfer_fills_can_be_committed(request_id: RequestId, phase: str) -> None:
    decode, _ = scheduler()
    start(decode, A)
    decode.reserve(reservation(B, local=True))
    with pytest.raises(UnknownRequest, match=f"got {phase}"):
        decode.commit(request_id)


def test_only_what_runs_can_finish() -> None:
    decode, _ = scheduler()
    decode.reserve(reservation(A))
    with pytest.raises(UnknownRequest, match="expected a running one, got a filling one"):
        decode.finish(A)


def test_expired_requests_are_named_in_every_phase_until_they_are_released() -> None:
    decode, _ = scheduler(num_blocks=4)
    decode.reserve(reservation(A, deadline_at=3.0, max_new_tokens=33))
    decode.reserve(reservation(B, deadline_at=2.0, max_new_tokens=33))
    decode.reserve(reservation(C, deadline_at=1.0))
    decode.commit(A)
    assert decode.expired(now=0.5) == ()
    assert decode.expired(now=3.0) == (C, B, A)
    decode.release(B, receiving=True)
    assert decode.expired(now=3.0) == (C, A)


def test_no_more_than_two_steps_are_in_flight() -> None:
    decode, _ = scheduler()
    start(decode, A)
    step = decode.next_step()
    assert step == DecodeStep(request_ids=(A,), rule="decode", reason="decode: 1 decode")
    following = decode.next_step()
    assert following == step
    with pytest.raises(RuntimeError, match="two steps are in flight"):
        decode.next_step()
    assert decode.emitted(step) == decode.emitted(following) == (A,)
    with pytest.raises(ValueError, match=r"expected the oldest of the steps in flight \[\]"):
        decode.emitted(step)


def test_a_finished_turn_stays_cached_and_the_next_one_shares_it() -> None:
    decode, blocks = scheduler()
    tokens = list(range(60))
    decode.reserve(
        reservation(A, num_tokens=40, max_new_tokens=10, hashes=hashes(tokens[:40]), local=True)
    )
    while len(emitted := run_step(decode)) == 1:
        decode.named(A, hashes(tokens[:48]))  # more than is computed yet
    assert emitted == ()
    decode.finish(A)
    assert (blocks.num_free, blocks.num_cached) == (100, 3)
    grant = decode.reserve(reservation(B, num_tokens=48, hashes=hashes(tokens[:48])))
    assert grant
    # The third block holds the last token, which is computed to sample the next.
    assert grant.num_cached_tokens == 32


def test_a_transfer_publishes_nothing_before_it_is_complete() -> None:
    decode, blocks = scheduler()
    names = hashes(range(40))
    decode.reserve(reservation(A, num_tokens=40, hashes=names))
    assert blocks.match(names) == 0
    decode.commit(A)
    assert blocks.match(names) == 2
    grant = decode.reserve(reservation(B, num_tokens=40, hashes=names))
    assert grant
    assert grant.num_cached_tokens == 32
    assert grant.block_ids[:2] == decode.block_ids(A)[:2]
    decode.release(B, receiving=True)
    decode.release(A)
    assert blocks.num_free == 97  # B drains, and with it the blocks that it shared


def test_a_local_prompt_is_computed_in_chunks_and_its_last_gives_a_token() -> None:
    decode, blocks = scheduler()
    decode.reserve(reservation(A, num_tokens=1000, max_new_tokens=2, local=True))
    first = decode.next_step()
    assert first is not None
    assert first.chunks == (PromptChunk(request_id=A, start=0, num_tokens=512, is_last=False),)
    assert decode.emitted(first) == ()
    last = decode.next_step()
    assert last is not None
    assert last.chunks == (PromptChunk(request_id=A, start=512, num_tokens=488, is_last=True),)
    assert decode.emitted(last) == (A,)
    assert run_step(decode) == (A,)
    assert run_step(decode) == ()
    decode.finish(A)
    assert blocks.num_free == 100


def hashes(tokens: Sequence[int]) -> list[BlockHash]:
    return block_hashes(tokens, BLOCK_SIZE, b"")
