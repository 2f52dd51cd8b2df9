"""Scaling decisions one by one: what is done at once, what waits, what is left to an operator."""

from dataclasses import replace

import pytest
from policy.scaling.scaling_cases import (
    PREFILL,
    holds,
    need,
    pods,
    ready,
    rule,
    scales,
    stuck,
    watch,
)

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import Group, Pool, PoolState, Scale

POOL = Pool(name="a", role="prefill", max_replicas=8)
SECOND = Pool(name="b", role="prefill", min_replicas=0, max_replicas=8)
POLICY = ScalingPolicy()


@pytest.fixture
def scaler() -> Scaler:
    return Scaler(POLICY)


def test_scales_out_at_once_with_the_reason_of_the_demand(scaler: Scaler) -> None:
    (action,) = scaler.decide(0.0, [ready(POOL, 1)], {PREFILL: need(2.1)})
    assert action == Scale(pool="a", replicas=3, rule="throughput", reason="throughput: 2.1")


def test_pods_on_their_way_are_not_asked_for_again(scaler: Scaler) -> None:
    demand = {PREFILL: need(3.0)}
    scaler.decide(0.0, [ready(POOL, 1)], demand)
    unlisted = replace(ready(POOL, 1), replicas=3)
    starting = PoolState(pool=POOL, replicas=3, pods=pods(POOL, "ready", "starting", "starting"))
    for at, state in enumerate((unlisted, unlisted, starting, ready(POOL, 3))):
        assert holds(scaler.decide(5.0 * at + 5, [state], demand)) == {"a": "enough"}


def test_pods_that_are_about_to_leave_are_no_surplus_again(scaler: Scaler) -> None:
    demand = {PREFILL: need(1.5)}
    actions = watch(scaler, 0.0, 300.0, [ready(POOL, 4)], demand)
    assert scales(actions) == {"a": 2}
    leaving = replace(ready(POOL, 4), replicas=2)
    assert holds(scaler.decide(305.0, [leaving], demand)) == {"a": "enough"}


def test_scales_in_only_after_a_whole_window_and_to_its_largest_demand(scaler: Scaler) -> None:
    pools = [ready(POOL, 6)]
    watch(scaler, 0.0, 50.0, pools, {PREFILL: need(3.2)})
    assert holds(watch(scaler, 55.0, 240.0, pools, {PREFILL: need(1.0)})) == {"a": "window"}
    assert scales(scaler.decide(300.0, pools, {PREFILL: need(1.0)})) == {"a": 4}


def test_one_pod_fewer_must_carry_the_load_with_a_margin(scaler: Scaler) -> None:
    assert scales(watch(scaler, 0.0, 300.0, [ready(POOL, 3)], {PREFILL: need(1.85)})) == {}
    other = Scaler(POLICY)
    assert scales(watch(other, 0.0, 300.0, [ready(POOL, 3)], {PREFILL: need(1.79)})) == {"a": 2}


def test_a_wrong_number_costs_at_most_a_doubling_per_decision(scaler: Scaler) -> None:
    large = replace(POOL, max_replicas=100)
    assert scales(scaler.decide(0.0, [ready(large, 10)], {PREFILL: need(90.0)})) == {"a": 20}
    small = Scaler(POLICY)
    assert scales(small.decide(0.0, [ready(large, 1)], {PREFILL: need(90.0)})) == {"a": 5}


def test_never_beyond_the_maximum_and_says_what_is_lacking(scaler: Scaler) -> None:
    assert scales(scaler.decide(0.0, [ready(POOL, 7)], {PREFILL: need(20.0)})) == {"a": 8}
    actions = scaler.decide(5.0, [ready(POOL, 8)], {PREFILL: need(20.0)})
    assert holds(actions) == {"a": "maximum"}
    assert "12 more are needed" in actions[0].reason


@pytest.mark.parametrize(("replicas", "wanted"), [(1, 2), (9, 4)], ids=["below", "above"])
def test_replicas_outside_the_bounds_are_brought_back_at_once(replicas: int, wanted: int) -> None:
    pool = replace(POOL, min_replicas=2, max_replicas=4)
    (action,) = Scaler(POLICY).decide(0.0, [ready(pool, replicas)], {PREFILL: need(2.0)})
    assert isinstance(action, Scale)
    assert (action.replicas, rule(action)) == (wanted, "bounds")


@pytest.mark.parametrize(("replicas", "wanted"), [(1, 3), (3, None), (4, None), (6, 4)])
def test_a_group_without_demand_is_held_within_its_bounds(
    scaler: Scaler, replicas: int, wanted: int | None
) -> None:
    decode = Pool(name="d", role="decode", min_replicas=3, max_replicas=4)
    actions = scaler.decide(0.0, [ready(POOL, 1), ready(decode, replicas)], {PREFILL: need(2.0)})
    assert scales(actions) == {"a": 2} | ({"d": wanted} if wanted else {})
    assert holds(actions) == ({} if wanted else {"d": "data missing"})
    assert rule(actions[1]) == ("bounds" if wanted else "data missing")


def test_data_missing_for_long_begins_the_window_anew(scaler: Scaler) -> None:
    pools, demand = [ready(POOL, 4)], {PREFILL: need(1.0)}
    watch(scaler, 0.0, 280.0, pools, demand)
    watch(scaler, 285.0, 30.0, pools, {})
    assert scales(watch(scaler, 320.0, 295.0, pools, demand)) == {}
    assert scales(scaler.decide(620.0, pools, demand)) == {"a": 2}


def test_data_missing_for_a_moment_is_no_gap_in_the_window(scaler: Scaler) -> None:
    """What came meanwhile is in the rates after it."""
    pools, demand = [ready(POOL, 4)], {PREFILL: need(1.0)}
    watch(scaler, 0.0, 255.0, pools, demand)
    assert holds(watch(scaler, 260.0, 25.0, pools, {})) == {"a": "data missing"}
    assert scales(watch(scaler, 290.0, 5.0, pools, demand)) == {}
    assert scales(scaler.decide(300.0, pools, demand)) == {"a": 2}


def test_a_time_without_a_decision_is_no_stable_window(scaler: Scaler) -> None:
    pools, demand = [ready(POOL, 4)], {PREFILL: need(1.0)}
    scaler.decide(0.0, pools, demand)
    assert scales(scaler.decide(400.0, pools, demand)) == {}


def test_a_paused_pool_is_held_and_its_workers_count(scaler: Scaler) -> None:
    paused = replace(ready(POOL, 2), paused=True)
    actions = scaler.decide(0.0, [paused, ready(SECOND, 0)], {PREFILL: need(3.0)})
    assert holds(actions) == {"a": "paused"}
    assert scales(actions) == {"b": 1}


def test_the_first_pool_with_room_gets_the_pods(scaler: Scaler) -> None:
    pools = [ready(POOL, 6), ready(SECOND, 0)]
    assert scales(scaler.decide(0.0, pools, {PREFILL: need(7.0)})) == {"a": 7}
    other = Scaler(POLICY)
    assert scales(other.decide(0.0, pools, {PREFILL: need(9.0)})) == {"a": 8, "b": 1}


def test_the_last_pool_gives_pods_up_first(scaler: Scaler) -> None:
    actions = watch(scaler, 0.0, 300.0, [ready(POOL, 4), ready(SECOND, 2)], {PREFILL: need(2.7)})
    assert scales(actions) == {"a": 3, "b": 0}


def test_groups_of_other_lengths_do_not_mix(scaler: Scaler) -> None:
    short = Pool(name="s", role="prefill", length_class="short", max_replicas=4)
    group: Group = ("prefill", "short")
    actions = scaler.decide(
        0.0, [ready(short, 1), ready(POOL, 1)], {group: need(3.0), PREFILL: need(1.0)}
    )
    assert scales(actions) == {"s": 3}


def test_the_cheapest_pods_leave(scaler: Scaler) -> None:
    states = pods(
        POOL, "ready", "ready", "starting", "ready", "unschedulable", running=[0, 2, 0, 1, 0]
    )
    warm = replace(states[0], cached_blocks=100)
    cold = replace(states[3], running_requests=0)
    state = PoolState(pool=POOL, replicas=5, pods=(warm, states[1], states[2], cold, states[4]))
    actions = watch(scaler, 0.0, 300.0, [state], {PREFILL: need(0.5)})
    (action,) = actions
    assert isinstance(action, Scale)
    assert action.leaving == ("a-4", "a-2", "a-3", "a-0")
    assert action.replicas == 1


def test_no_ready_pod_is_given_up_for_one_that_only_starts(scaler: Scaler) -> None:
    preferred = PoolState(pool=POOL, replicas=3, pods=pods(POOL, "ready", "starting", "starting"))
    actions = watch(scaler, 0.0, 20.0, [preferred, ready(SECOND, 2)], {PREFILL: need(2.6)})
    actions = watch(scaler, 25.0, 300.0, [preferred, ready(SECOND, 2)], {PREFILL: need(2.6)})
    assert scales(actions) == {"a": 1}


# Idle


def test_without_work_the_minimum_stays(scaler: Scaler) -> None:
    assert scales(watch(scaler, 0.0, 2000.0, [ready(POOL, 3)], {PREFILL: need(0.0)})) == {"a": 1}


def test_the_last_worker_goes_only_after_a_long_silence(scaler: Scaler) -> None:
    pools = [ready(SECOND, 1)]
    watch(scaler, 0.0, 300.0, pools, {PREFILL: need(0.2)})
    assert scales(watch(scaler, 305.0, 595.0, pools, {PREFILL: need(0.0)})) == {}
    (action,) = scaler.decide(905.0, pools, {PREFILL: need(0.0)})
    assert isinstance(action, Scale)
    assert (action.replicas, rule(action)) == (0, "scale to zero")


def test_comes_back_from_zero_for_any_work(scaler: Scaler) -> None:
    pools = [ready(SECOND, 0)]
    assert scales(scaler.decide(0.0, pools, {PREFILL: need(0.0)})) == {}
    assert scales(scaler.decide(5.0, pools, {PREFILL: need(0.001)})) == {"b": 1}
    waits = replace(need(0.0), is_idle=False)
    assert scales(Scaler(POLICY).decide(0.0, pools, {PREFILL: waits})) == {"b": 1}


# Operators


def test_what_is_there_at_first_is_no_edit(scaler: Scaler) -> None:
    assert scales(scaler.decide(0.0, [ready(POOL, 2)], {PREFILL: need(3.0)})) == {"a": 3}
    scaler.forget()
    assert scales(scaler.decide(5.0, [ready(POOL, 5)], {PREFILL: need(6.0)})) == {"a": 6}


def test_an_operators_number_stands_for_a_while_even_outside_the_bounds(scaler: Scaler) -> None:
    demand = {PREFILL: need(3.0)}
    scaler.decide(0.0, [ready(POOL, 3)], demand)
    edited = [ready(POOL, 12)]
    assert holds(watch(scaler, 5.0, 295.0, edited, demand)) == {"a": "manual edit"}
    (action,) = scaler.decide(305.0, edited, demand)
    assert isinstance(action, Scale)
    assert action.replicas == 4  # 3 / 0.9; the window began with the edit and is over with it


def test_the_other_pools_of_a_group_go_on_beside_an_operators_number(scaler: Scaler) -> None:
    demand = {PREFILL: need(4.0)}
    scaler.decide(0.0, [ready(POOL, 4), ready(SECOND, 0)], demand)
    actions = scaler.decide(5.0, [ready(POOL, 1), ready(SECOND, 0)], demand)
    assert holds(actions) == {"a": "manual edit"}
    assert scales(actions) == {"b": 3}


def test_a_write_that_failed_or_shows_late_is_no_edit(scaler: Scaler) -> None:
    demand = {PREFILL: need(3.0)}
    for at in (0.0, 5.0, 10.0):
        assert scales(scaler.decide(at, [ready(POOL, 1)], demand)) == {"a": 3}
    assert scales(scaler.decide(15.0, [ready(POOL, 1)], {PREFILL: need(4.0)})) == {"a": 4}
    late = replace(ready(POOL, 1), replicas=3)
    assert scales(scaler.decide(20.0, [late], {PREFILL: need(4.0)})) == {"a": 4}


def test_taking_back_what_was_written_is_an_edit(scaler: Scaler) -> None:
    demand = {PREFILL: need(3.0)}
    scaler.decide(0.0, [ready(POOL, 1)], demand)
    scaler.decide(5.0, [ready(POOL, 3)], demand)
    assert holds(scaler.decide(10.0, [ready(POOL, 1)], demand)) == {"a": "manual edit"}


# Pods that can run nowhere


def test_a_stuck_pool_gets_no_more_and_says_so(scaler: Scaler) -> None:
    actions = scaler.decide(0.0, [stuck(POOL, 1, 1)], {PREFILL: need(5.0)})
    assert holds(actions) == {"a": "unschedulable"}


def test_another_pool_helps_out_where_one_is_stuck(scaler: Scaler) -> None:
    pools = [stuck(POOL, 1, 2), ready(SECOND, 0)]
    assert scales(scaler.decide(0.0, pools, {PREFILL: need(3.0)})) == {"b": 2}


def test_pods_that_can_run_nowhere_are_given_back_when_they_are_not_needed(scaler: Scaler) -> None:
    actions = watch(scaler, 0.0, 300.0, [stuck(POOL, 2, 3)], {PREFILL: need(2.5)})
    (action,) = actions
    assert isinstance(action, Scale)
    assert (action.replicas, action.leaving) == (3, ("a-2", "a-3"))


def test_scaling_in_goes_on_beside_a_stuck_pod(scaler: Scaler) -> None:
    actions = watch(scaler, 0.0, 300.0, [stuck(POOL, 4, 1)], {PREFILL: need(1.0)})
    assert scales(actions) == {"a": 2}


def test_a_pool_that_gave_stuck_pods_back_is_tried_again_later(scaler: Scaler) -> None:
    other = replace(SECOND, max_replicas=4)
    helped = [stuck(POOL, 1, 2), ready(other, 4)]
    assert scales(watch(scaler, 0.0, 300.0, helped, {PREFILL: need(4.4)})) == {"a": 1}
    given_back, more = [ready(POOL, 1), ready(other, 4)], {PREFILL: need(6.0)}
    actions = watch(scaler, 305.0, 290.0, given_back, more)
    assert holds(actions) == {"a": "unschedulable", "b": "maximum"}
    assert scales(scaler.decide(600.0, given_back, more)) == {"a": 2}


def test_pods_that_are_never_made_count_as_stuck(scaler: Scaler) -> None:
    quota = replace(ready(POOL, 1), replicas=3)
    demand = {PREFILL: need(3.0)}
    assert holds(watch(scaler, 0.0, 30.0, [quota, ready(SECOND, 0)], demand))["b"] == "enough"
    assert scales(scaler.decide(35.0, [quota, ready(SECOND, 0)], demand)) == {"b": 2}


@pytest.mark.parametrize(
    ("field", "bad"), [("margin", 1.0), ("growth", 0.5), ("scale_in_seconds", -1.0)]
)
def test_a_policy_out_of_range_is_refused_by_name(field: str, bad: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(POLICY, **{field: bad})  # type: ignore[arg-type]
