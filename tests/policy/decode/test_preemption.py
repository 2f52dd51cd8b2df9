"""Memory that runs out: the most junior gives way, comes back, and says what it would have said."""

import pytest
from harness.block_integrity import check_cache
from hypothesis import given
from hypothesis import strategies as st
from policy.decode.decode_model import DecodeWorkerModel

from lengthwise_policy.decode.policy import AdmissionName, DecodePolicy, PastFuturePolicy
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 4
NUM_BLOCKS = 16


def worker(
    *,
    num_blocks: int = NUM_BLOCKS,
    past_outputs: tuple[int, ...] = (2, 3, 4, 5, 6) * 8,
    max_running: int = 8,
    admission: AdmissionName = "past_future",
) -> DecodeWorkerModel:
    """It expects outputs as they were so far: short ones."""
    policy = DecodePolicy(
        max_running=max_running,
        queue_limit=100,
        step_tokens=max_running + 12,
        admission=admission,
        past_future=PastFuturePolicy(window=len(past_outputs), reserve=0.0),
    )
    model = DecodeWorkerModel(policy, num_blocks, BLOCK_SIZE)
    for count in past_outputs:
        model.reserve([9], count, local=True)
        model.run()
    return model


def run_until_preemption(model: DecodeWorkerModel, max_steps: int = 200) -> tuple[RequestId, ...]:
    for _ in range(max_steps):
        step = model.next_step()
        assert step is not None
        preempted = step.preempted
        model.emitted()
        if preempted:
            return preempted
        model.take_granted()
    raise AssertionError("no request was preempted")


def start(model: DecodeWorkerModel, *priorities: int, num_tokens: int = 8) -> list[RequestId]:
    names = [
        model.reserve([number] * num_tokens, 40, priority=priority)
        for number, priority in enumerate(priorities)
    ]
    for name in names:
        model.arrive(name)
    return names


@pytest.mark.parametrize(
    ("priorities", "victim"),
    [
        pytest.param((0, 0, 0), 2, id="the newest"),
        pytest.param((0, -1, 0), 1, id="the lowest priority"),
        pytest.param((-1, -1, 0), 1, id="the newest of the lowest priority"),
    ],
)
def test_the_most_junior_gives_way(priorities: tuple[int, ...], victim: int) -> None:
    model = worker(past_outputs=(2,) * 100)
    names = start(model, *priorities)
    assert run_until_preemption(model) == (names[victim],)
    assert model.scheduler.num_queued == 1
    model.run()
    assert set(names) <= set(model.done)


def test_a_preempted_request_is_the_first_to_come_back_and_finds_what_it_left() -> None:
    model = worker(past_outputs=(2,) * 100)
    names = start(model, 0, 0, 0)
    (victim,) = run_until_preemption(model)
    full_blocks = (len(model.queued[victim].tokens) - 1) // BLOCK_SIZE
    later = model.reserve([7] * 8, 2, local=True)
    for name in names[:2]:
        model.release(name)
    grants = model.take_granted()
    assert [grant.request_id for grant in grants] == [victim, later]
    assert [grant.rule for grant in grants][:1] == ["resumed"]
    # All but the block that it was preempted for.
    assert grants[0].num_cached_tokens == (full_blocks - 1) * BLOCK_SIZE
    model.run()


def test_what_a_transfer_fills_is_not_preempted_and_its_senior_waits_for_it() -> None:
    model = worker(past_outputs=(2,) * 100)
    (senior,) = start(model, 0, num_tokens=12)
    filling = model.reserve([5] * 44, 2)
    assert model.admitted[filling].filling
    while (
        model.next_step()
    ):  # until the senior has the last two of the 16 blocks, and they are full
        model.emitted()
    assert len(model.admitted[senior].tokens) == 21
    waiting = model.reserve([6], 2, local=True, priority=1)
    assert waiting in model.queued
    model.arrive(filling)
    step = model.next_step()
    assert step is not None
    assert step.preempted == (filling,)
    assert senior in step.request_ids
    model.emitted()
    model.run()


def test_no_request_is_preempted_while_a_step_is_in_flight() -> None:
    model = worker(past_outputs=(2,) * 100)
    names = start(model, 0, 0, 0)
    while model.next_step():
        if len(model.flights) == 2:
            model.emitted()
    assert len(model.flights) == 1
    assert set(model.admitted) == set(names), "it was planned ahead, and came to nothing"
    assert model.take_granted() == []
    model.emitted()
    step = model.next_step()
    assert step is not None
    assert step.preempted == (names[2],)
    model.run(ahead=True)


def test_worst_cases_are_never_preempted() -> None:
    model = worker(admission="worst_case")
    for number in range(6):
        model.reserve([number] * 8, 20, local=True)
    model.run()
    assert model.num_preemptions == 0


def test_free_blocks_alone_admit_what_has_to_give_way_later_and_all_finish() -> None:
    model = worker(admission="free_now")
    names = [model.reserve([number] * 8, 20, local=True) for number in range(6)]
    assert len(model.admitted) == 6, "the worst case is 42 of the 16 blocks"
    model.run()
    assert model.num_preemptions
    assert set(names) <= set(model.done)


def test_reservations_of_the_prompt_alone_keep_more_requests_running() -> None:
    steps = {}
    for admission in ("past_future", "worst_case"):
        model = worker(num_blocks=40, past_outputs=(8,) * 100, admission=admission)
        names = [model.reserve([number] * 8, 60, local=True) for number in range(12)]
        count = 0
        while any(name not in model.done for name in names):
            model.take_granted()
            if model.next_step():
                model.emitted()
                count += 1
            for name in [n for n in names if n in model.admitted]:
                request = model.admitted[name]
                if len(request.tokens) == 16:  # they end by themselves after 8 tokens
                    model.scheduler.finish(name)
                    model.done[name] = model.admitted.pop(name)
        steps[admission] = count
    assert steps["past_future"] * 2 < steps["worst_case"]


arrivals = st.tuples(
    st.integers(0, 2),  # family: prompts of one begin alike
    st.integers(1, 30),  # prompt tokens
    st.integers(1, 30),  # output tokens
    st.booleans(),  # local
    st.sampled_from([0, 0, 0, 1]),  # priority
    st.integers(0, 6),  # steps until the next one comes
    st.integers(0, 12),  # steps that its transfer takes
)


@pytest.mark.slow
@given(
    traffic=st.lists(arrivals, min_size=4, max_size=14),
    max_running=st.integers(1, 8),
    ahead=st.booleans(),
)
def test_everybody_finishes_with_the_right_tokens(
    traffic: list[tuple[int, int, int, bool, int, int, int]], max_running: int, ahead: bool
) -> None:
    """The model checks every slot that is read, every token, and the order of grants."""
    model = worker(max_running=max_running)
    pending = list(traffic)
    transfers: dict[RequestId, int] = {}
    next_at = 0
    for tick in range(3000):
        while pending and tick >= next_at:
            family, num_tokens, count, local, priority, wait, seconds = pending.pop(0)
            name = model.reserve([family] * num_tokens, count, local=local, priority=priority)
            transfers[name] = seconds
            next_at = tick + wait
        model.take_granted()
        for request_id in [name for name, each in model.admitted.items() if each.filling]:
            transfers[request_id] -= 1
            if transfers[request_id] < 0:
                model.arrive(request_id)
        step = model.next_step()
        while len(model.flights) > (1 if ahead and step else 0):
            model.emitted()
        check_cache(model.blocks)
        if not pending and not model.queued and not model.admitted:
            break
    assert len(model.done) == 40 + len(traffic)
    assert model.blocks.num_free == NUM_BLOCKS


@pytest.mark.parametrize("ahead", [False, True], ids=["step by step", "ahead"])
def test_memory_runs_out_in_traffic_like_that(ahead: bool) -> None:
    """Otherwise the test above would show nothing."""
    model = worker()
    for number in range(12):
        model.reserve([number % 3] * (5 + number), 30, local=number % 2 > 0)
    model.run(ahead=ahead)
    assert model.num_preemptions > 5
