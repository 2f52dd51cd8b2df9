"""Roles are flipped before pods are made, and no pool starves or sends pods back and forth."""

from dataclasses import replace

import pytest
from policy.scaling.scaling_cases import (
    DECODE,
    PREFILL,
    flips,
    need,
    ready,
    rule,
    scales,
    stuck,
    watch,
)

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import PodPhase, Pool, PoolState
from lengthwise_policy.types import Role

POLICY = ScalingPolicy()


@pytest.fixture
def scaler() -> Scaler:
    return Scaler(POLICY)


P = Pool(name="p", role="prefill", max_replicas=8, flexible=True)
D = Pool(name="d", role="decode", max_replicas=8, flexible=True)


def flipped(pool: Pool, home: int, away: int) -> PoolState:
    state = ready(pool, home + away)
    other: Role = "decode" if pool.role == "prefill" else "prefill"
    return replace(
        state,
        pods=(
            *(replace(pod, role=other) for pod in state.pods[:away]),
            *state.pods[away:],
        ),
    )


def test_roles_are_flipped_before_pods_are_made(scaler: Scaler) -> None:
    pools = [ready(P, 1), ready(D, 3)]
    calm = {PREFILL: need(0.8), DECODE: need(1.2)}
    watch(scaler, 0.0, 30.0, pools, calm)
    starving = {PREFILL: need(1.6), DECODE: need(1.2)}
    first = scaler.decide(35.0, pools, starving)
    assert not flips(first)
    assert not scales(first)
    second = scaler.decide(40.0, pools, starving)
    (flip,) = flips(second)
    assert (flip.pool, flip.pod, flip.role, rule(flip)) == ("d", "d-0", "prefill", "flip")
    assert not scales(second)


def test_what_flips_cannot_give_is_made(scaler: Scaler) -> None:
    pools = [ready(P, 1), ready(D, 3)]
    watch(scaler, 0.0, 30.0, pools, {PREFILL: need(0.8), DECODE: need(1.2)})
    actions = scaler.decide(35.0, pools, {PREFILL: need(4.0), DECODE: need(1.2)})
    assert scales(actions) == {"p": 3}


def test_a_role_keeps_what_it_needed_in_the_last_seconds_and_at_least_one(scaler: Scaler) -> None:
    pools = [ready(P, 1), ready(D, 2)]
    watch(scaler, 0.0, 30.0, pools, {PREFILL: need(0.8), DECODE: need(0.95)})
    starving = {PREFILL: need(2.0), DECODE: need(0.0)}
    assert not flips(watch(scaler, 35.0, 10.0, pools, starving))
    only = Scaler(POLICY)
    assert not flips(watch(only, 0.0, 60.0, [ready(P, 1), ready(D, 1)], starving))


def test_a_pod_on_its_way_to_a_role_counts_there(scaler: Scaler) -> None:
    pools = [ready(P, 1), ready(D, 3)]
    watch(scaler, 0.0, 30.0, pools, {PREFILL: need(0.8), DECODE: need(1.2)})
    starving = {PREFILL: need(1.6), DECODE: need(1.2)}
    watch(scaler, 35.0, 5.0, pools, starving)
    stages: list[tuple[PodPhase, Role]] = [
        ("leaving", "decode"),
        ("starting", "prefill"),
        ("ready", "prefill"),
    ]
    for phase, role in stages:
        changing = replace(pools[1].pods[0], phase=phase, role=role)
        state = replace(pools[1], pods=(changing, *pools[1].pods[1:]))
        actions = scaler.decide(45.0, [pools[0], state], starving)
        assert not flips(actions)
        assert not scales(actions)


def test_where_pods_refuse_to_flip_pods_are_made(scaler: Scaler) -> None:
    pools = [ready(P, 1), ready(D, 2)]
    watch(scaler, 0.0, 30.0, pools, {PREFILL: need(0.8), DECODE: need(0.5)})
    starving = {PREFILL: need(1.6), DECODE: need(0.5)}
    moved, at = [], 35.0
    while not (actions := scales(decided := scaler.decide(at, pools, starving))) and at < 300:
        moved += [flip.pod for flip in flips(decided)]
        at += 5.0
    assert moved == ["d-0", "d-1"]
    assert actions == {"p": 2}
    assert at < 120


def test_a_visitor_goes_home_when_its_host_has_not_needed_it_for_long(scaler: Scaler) -> None:
    pools = [ready(P, 1), flipped(D, 1, 1)]
    demand = {PREFILL: need(0.5), DECODE: need(0.9)}
    assert not flips(watch(scaler, 0.0, 295.0, pools, demand))
    actions = scaler.decide(300.0, pools, demand)
    (flip,) = flips(actions)
    assert (flip.pod, flip.role, rule(flip)) == ("d-0", "decode", "home")
    assert not scales(actions)


def test_a_visitor_goes_home_first_when_its_own_role_starves(scaler: Scaler) -> None:
    pools = [ready(P, 2), flipped(D, 1, 1)]
    watch(scaler, 0.0, 30.0, pools, {PREFILL: need(0.5), DECODE: need(0.9)})
    actions = watch(scaler, 35.0, 5.0, pools, {PREFILL: need(0.5), DECODE: need(2.0)})
    assert [(flip.pod, flip.role) for flip in flips(actions)] == [("d-0", "decode")]


def test_a_host_makes_its_own_pods_when_a_full_pool_needs_its_visitors_back(scaler: Scaler) -> None:
    full = replace(D, max_replicas=2)
    pools = [ready(P, 1), flipped(full, 1, 1)]
    actions = scaler.decide(0.0, pools, {PREFILL: need(2.0), DECODE: need(2.0)})
    assert scales(actions) == {"p": 2}


@pytest.mark.parametrize("why", ["rigid", "paused"])
def test_only_flexible_pools_that_are_not_paused_flip(why: str) -> None:
    scaler = Scaler(POLICY)
    giver = ready(replace(D, flexible=why != "rigid"), 3)
    pools = [ready(P, 1), replace(giver, paused=why == "paused")]
    watch(scaler, 0.0, 30.0, pools, {PREFILL: need(0.8), DECODE: need(1.2)})
    actions = watch(scaler, 35.0, 5.0, pools, {PREFILL: need(1.6), DECODE: need(1.2)})
    assert not flips(actions)
    assert scales(actions) == {"p": 2}


def test_flips_in_opposite_directions_keep_their_distance(scaler: Scaler) -> None:
    """Here the pods that made the first flip necessary find a node right after it."""
    before, after = [stuck(P, 1, 2), ready(D, 3)], [ready(P, 3), flipped(D, 2, 1)]
    demand = {PREFILL: need(1.7), DECODE: need(0.8)}
    watch(scaler, 0.0, 25.0, before, {**demand, PREFILL: need(0.8)})
    assert flips(watch(scaler, 30.0, 5.0, before, demand))
    for at in range(40, 65, 5):
        assert not flips(scaler.decide(float(at), after, {**demand, DECODE: need(3.0)}))
    (flip,) = flips(scaler.decide(65.0, after, {**demand, DECODE: need(3.0)}))
    assert flip.role == "decode"
