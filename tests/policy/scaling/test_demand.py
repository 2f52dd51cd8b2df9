"""Demand: what each term asks for, and that more work never asks for less."""

from dataclasses import replace
from math import inf, isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.scaling.demand import DemandPolicy, decode_demand, prefill_demand, slots_at
from lengthwise_policy.scaling.state import DecodeLoad, Demand, PrefillLoad

POLICY = DemandPolicy(objectives=Objectives(tpot_seconds=0.05))

COST = CostModel(
    step_seconds=0.02,
    token_seconds=1e-4,
    attention_seconds=0.0,
    history_seconds=0.0,
    decode_request_seconds=5e-4,
    decode_context_seconds=5e-7,
)

NO_PREFILL = PrefillLoad(
    arrived_tokens={"short": 0.0, "long": 0.0},
    token_seconds={"short": 2e-4, "long": 1e-4},
    queued_tokens={"short": 0.0, "long": 0.0},
    ttft_seconds={"short": None, "long": None},
    queue_seconds={"short": None, "long": None},
    waiting_requests=0.0,
)

NO_DECODE = DecodeLoad(
    running_requests=0.0,
    context_tokens=0.0,
    queued_requests=0.0,
    queued_tokens=0.0,
    blocks_predicted=0.0,
    blocks_per_worker=0.0,
    block_size=16,
    generated_tokens=0.0,
    tpot_seconds=None,
    cost=None,
    waiting_requests=0.0,
)


def rule(demand: Demand) -> str:
    return demand.reason.rule


def test_without_any_work_nothing_is_needed_and_it_says_idle() -> None:
    for demand in (
        prefill_demand(NO_PREFILL, POLICY, 3),
        prefill_demand(NO_PREFILL, POLICY, 0),
        decode_demand(NO_DECODE, POLICY, 3),
        decode_demand(replace(NO_DECODE, cost=COST, blocks_per_worker=100), POLICY, 3),
    ):
        assert (demand.workers, demand.is_idle, rule(demand)) == (0.0, True, "idle")


def test_each_length_class_counts_at_its_own_speed() -> None:
    load = replace(NO_PREFILL, arrived_tokens={"short": 3500.0, "long": 14_000.0})
    demand = prefill_demand(load, POLICY, 3)
    assert demand.workers == pytest.approx((0.7 + 1.4) / 0.7)
    assert rule(demand) == "throughput"


def test_a_queue_has_to_be_gone_within_the_horizon() -> None:
    load = replace(
        NO_PREFILL,
        arrived_tokens={"long": 10_000.0},
        queued_tokens={"long": 600_000.0},
    )
    demand = prefill_demand(load, POLICY, 1)
    assert demand.workers == pytest.approx(1.0 + 60.0 / 30.0)
    assert rule(demand) == "queue"


def test_a_surge_counts_before_the_minute_is_over() -> None:
    load = replace(NO_PREFILL, arrived_tokens={"long": 7000.0}, recent_tokens={"long": 40_000.0})
    assert prefill_demand(load, POLICY, 1).workers == pytest.approx(4.0)


def waiting_long(wait: float, *, total: float) -> PrefillLoad:
    """Two workers' worth of traffic, with enough queued that the wait is of this moment."""
    return replace(
        NO_PREFILL,
        arrived_tokens={"long": 20_000.0},
        ttft_seconds={"long": total},
        queue_seconds={"long": wait},
        queued_tokens={"long": 300_000.0},
    )


def test_queueing_beyond_what_the_objective_leaves_makes_the_spare_capacity_grow() -> None:
    patient = replace(POLICY, clear_seconds=1000.0)
    demand = prefill_demand(waiting_long(1.5, total=2.5), patient, 6)
    assert rule(demand) == "latency"
    # 1 s is the prefill's own, 1 s is left, 1.5 s are waited: 4 spare workers have to be 6.
    assert demand.workers == pytest.approx(2.0 + 4.0 * 1.5)


def test_latency_that_is_the_prefill_itself_asks_for_nothing() -> None:
    demand = prefill_demand(waiting_long(0.0, total=9.0), replace(POLICY, clear_seconds=1e6), 6)
    assert rule(demand) == "throughput"


def test_latency_asks_at_most_for_twice_the_spare_capacity() -> None:
    demand = prefill_demand(waiting_long(500.0, total=500.5), replace(POLICY, clear_seconds=1e6), 6)
    assert demand.workers == pytest.approx(2.0 + 2 * 4.0)


def test_workers_that_came_within_the_window_are_given_time_to_show_what_they_do() -> None:
    patient = replace(POLICY, clear_seconds=1e6)
    load = replace(waiting_long(500.0, total=500.5), mean_workers=4.0)
    assert prefill_demand(load, patient, 6).workers <= 6.0


def test_a_wait_of_the_past_with_an_empty_queue_asks_for_nothing() -> None:
    load = replace(waiting_long(500.0, total=500.5), queued_tokens={"long": 0.0})
    assert rule(prefill_demand(load, POLICY, 6)) == "throughput"


def test_workers_that_hardly_work_are_not_what_prompts_wait_for() -> None:
    load = replace(
        waiting_long(500.0, total=500.5),
        arrived_tokens={"long": 1000.0},
        queued_tokens={"long": 10_000.0},
    )
    assert prefill_demand(load, POLICY, 6).workers <= 1.0


@pytest.mark.parametrize(("workers", "needed"), [(0, 1.0), (1, 0.0)], ids=["none", "one"])
def test_who_waits_at_a_router_needs_a_worker_where_there_is_none(
    workers: int, needed: float
) -> None:
    prefill = prefill_demand(replace(NO_PREFILL, waiting_requests=5.0), POLICY, workers)
    decode = decode_demand(replace(NO_DECODE, waiting_requests=5.0), POLICY, workers)
    assert prefill.workers == decode.workers == needed
    assert not prefill.is_idle
    assert not decode.is_idle


def test_predicted_and_awaited_blocks_need_memory() -> None:
    load = replace(
        NO_DECODE, running_requests=10.0, blocks_predicted=1700.0, queued_tokens=1600.0,
        queued_requests=1.0, blocks_per_worker=1000.0,
    )  # fmt: skip
    demand = decode_demand(load, POLICY, 2)
    assert demand.workers == pytest.approx(1800 / 900)
    assert rule(demand) == "memory"


def test_a_step_with_the_slots_of_a_worker_takes_the_objective() -> None:
    load = replace(NO_DECODE, running_requests=60.0, context_tokens=60_000.0, cost=COST)
    slots = slots_at(load, 0.05)
    assert slots is not None
    assert COST.decode_step_seconds(round(slots), round(slots * 1000)) == pytest.approx(0.05)
    demand = decode_demand(load, POLICY, 2)
    assert rule(demand) == "slots"
    assert demand.workers == pytest.approx(60 / slots / 0.75)


def test_workers_found_from_the_token_rate_run_at_the_objective_when_one_can_go() -> None:
    """Fewer workers make steps longer and so more requests run at once: slots alone forget that."""
    rate, context = 1500.0, 1000.0
    load = replace(NO_DECODE, generated_tokens=rate, cost=COST)
    for workers in (4, 8, 16):
        each = COST.decode_request_seconds + COST.decode_context_seconds * context
        batch = rate / workers * COST.step_seconds / (1 - rate / workers * each)
        running = batch * workers
        seen = replace(load, running_requests=running, context_tokens=running * context)
        needed = decode_demand(seen, POLICY, workers).workers * 0.75
        batch_then = rate / needed * COST.step_seconds / (1 - rate / needed * each)
        step = COST.step_seconds + each * batch_then
        assert step == pytest.approx(POLICY.objectives.tpot_seconds)


def test_what_is_still_in_prefill_counts_for_decode() -> None:
    load = replace(NO_DECODE, cost=COST, arrived_requests=8.0, output_tokens=200.0)
    assert decode_demand(load, POLICY, 2).workers == pytest.approx(8 * 200 * 0.05 / 60 / 0.75)


def test_prompts_that_no_prefill_pool_computes_need_decode_workers_beside_those_that_decode() -> (
    None
):
    load = replace(NO_DECODE, cost=COST, generated_tokens=1500.0, running_requests=60.0)
    decoding = decode_demand(load, POLICY, 2).workers
    prompts = 1.4 / COST.token_seconds  # keep 1.4 workers busy
    demand = decode_demand(replace(load, prompt_tokens=prompts), POLICY, 2)
    assert rule(demand) == "throughput"
    assert demand.workers == pytest.approx(1.4 / 0.7 + decoding)
    assert not decode_demand(replace(NO_DECODE, prompt_tokens=1.0), POLICY, 2).is_idle


def test_an_objective_that_one_request_alone_misses_asks_for_no_workers() -> None:
    load = replace(
        NO_DECODE, running_requests=60.0, context_tokens=60_000.0, cost=COST, tpot_seconds=9.0
    )
    for tpot in (0.01, 0.02, 0.0205):
        demand = decode_demand(load, DemandPolicy(objectives=Objectives(tpot_seconds=tpot)), 2)
        assert demand.workers == 0.0
        assert not demand.is_idle


def test_tokens_that_come_late_ask_for_at_most_twice_the_workers() -> None:
    load = replace(NO_DECODE, running_requests=100.0, tpot_seconds=5.0)
    assert decode_demand(load, POLICY, 3).workers == pytest.approx(6.0)
    assert decode_demand(replace(load, running_requests=4.0), POLICY, 3).workers == 4.0


@pytest.mark.parametrize("bad", [nan, -1.0, inf], ids=["nan", "negative", "infinite"])
def test_a_number_that_is_none_is_an_error_and_never_a_demand(bad: float) -> None:
    with pytest.raises(ValueError, match=r"arrived_tokens\[long\]"):
        prefill_demand(replace(NO_PREFILL, arrived_tokens={"long": bad}), POLICY, 1)
    with pytest.raises(ValueError, match="ttft_seconds"):
        prefill_demand(replace(NO_PREFILL, ttft_seconds={"long": bad}), POLICY, 1)
    with pytest.raises(ValueError, match="generated_tokens"):
        decode_demand(replace(NO_DECODE, generated_tokens=bad), POLICY, 1)
    with pytest.raises(ValueError, match="tpot_seconds"):
        decode_demand(replace(NO_DECODE, tpot_seconds=bad), POLICY, 1)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("utilisation", 0.0),
        ("memory_utilisation", 1.1),
        ("clear_seconds", nan),
    ],
)
def test_a_share_out_of_range_is_refused_by_name(field: str, bad: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(POLICY, **{field: bad})  # type: ignore[arg-type]


AMOUNTS = st.floats(0, 1e6)
SECONDS = st.none() | st.floats(0, 100)

PREFILL_LOADS = st.builds(
    PrefillLoad,
    arrived_tokens=st.fixed_dictionaries({"short": AMOUNTS, "long": AMOUNTS}),
    token_seconds=st.dictionaries(st.sampled_from(["short", "long"]), st.floats(0, 0.01)),
    queued_tokens=st.fixed_dictionaries({"short": AMOUNTS, "long": AMOUNTS}),
    ttft_seconds=st.fixed_dictionaries({"short": SECONDS, "long": SECONDS}),
    queue_seconds=st.fixed_dictionaries({"short": SECONDS, "long": SECONDS}),
    waiting_requests=st.floats(0, 100),
    mean_workers=st.none() | st.floats(0, 50),
)  # fmt: skip

DECODE_LOADS = st.builds(
    DecodeLoad,
    running_requests=st.floats(0, 1e4),
    context_tokens=AMOUNTS,
    queued_requests=st.floats(0, 1e4),
    queued_tokens=AMOUNTS,
    blocks_predicted=AMOUNTS,
    blocks_per_worker=st.floats(0, 1e5),
    block_size=st.integers(1, 64),
    generated_tokens=AMOUNTS,
    tpot_seconds=SECONDS,
    cost=st.none() | st.just(COST) | st.just(replace(COST, decode_request_seconds=0.0)),
    waiting_requests=st.floats(0, 100),
    mean_workers=st.none() | st.floats(0, 50),
    arrived_requests=st.floats(0, 100),
    output_tokens=st.none() | st.floats(0, 1e4),
)


@given(PREFILL_LOADS, st.integers(0, 50))
def test_prefill_demand_is_always_a_number(load: PrefillLoad, workers: int) -> None:
    demand = prefill_demand(load, POLICY, workers)
    assert isfinite(demand.workers)
    assert demand.workers >= 0
    assert not (demand.is_idle and demand.workers)


@given(DECODE_LOADS, st.integers(0, 50))
def test_decode_demand_is_always_a_number(load: DecodeLoad, workers: int) -> None:
    demand = decode_demand(load, POLICY, workers)
    assert isfinite(demand.workers)
    assert demand.workers >= 0
    assert not (demand.is_idle and demand.workers)


@given(PREFILL_LOADS, st.integers(0, 50), st.floats(1, 10), st.floats(1, 10))
def test_more_prefill_work_never_needs_less(
    load: PrefillLoad, workers: int, more_tokens: float, more_queue: float
) -> None:
    more = replace(
        load,
        queued_tokens={name: tokens * more_queue for name, tokens in load.queued_tokens.items()},
        waiting_requests=load.waiting_requests * more_queue,
        recent_tokens={name: tokens * more_tokens for name, tokens in load.arrived_tokens.items()},
    )
    before = prefill_demand(load, POLICY, workers).workers
    assert prefill_demand(more, POLICY, workers).workers >= before * (1 - 1e-9)


@given(DECODE_LOADS, st.integers(0, 50), st.floats(1, 10))
def test_more_decode_work_never_needs_less(load: DecodeLoad, workers: int, more: float) -> None:
    """Of the same contexts."""
    heavier = replace(
        load,
        running_requests=load.running_requests * more,
        context_tokens=load.context_tokens * more,
        queued_requests=load.queued_requests * more,
        queued_tokens=load.queued_tokens * more,
        blocks_predicted=load.blocks_predicted * more,
        generated_tokens=load.generated_tokens * more,
        arrived_requests=load.arrived_requests * more,
    )
    before = decode_demand(load, POLICY, workers).workers
    assert decode_demand(heavier, POLICY, workers).workers >= before * (1 - 1e-9)
