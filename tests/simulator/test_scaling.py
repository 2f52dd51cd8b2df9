"""The autoscaler in the loop of a simulated cluster."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator.clusters import check_nothing_is_left, group

from lengthwise_policy.objectives import Objectives
from lengthwise_policy.scaling.demand import DemandPolicy
from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.state import Flip, Pool, Scale
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerFailure
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.scaling.observed import ObservedLoad
from lengthwise_simulator.scaling.scaled_simulation import (
    ScaledRun,
    ScaledSimulation,
    ScalerController,
)
from lengthwise_simulator.workload.arrivals import steps, varying
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request

SLOW = replace(group("prefill", 1).costs.model, token_seconds=4e-4)  # type: ignore[attr-defined]
CLUSTER = ClusterSpec(
    groups=(
        replace(group("prefill", 1), costs=replace(group("prefill", 1).costs, model=SLOW)),  # type: ignore[type-var]
        group("decode", 1),
    )
)
POOLS = (
    Pool(name="prefill", role="prefill", max_replicas=8),
    Pool(name="decode", role="decode", max_replicas=8),
)


def scaler() -> ScalerController:
    policy = ScalingPolicy(scale_in_seconds=60.0)
    return ScalerController(policy, DemandPolicy(objectives=Objectives()))


def requests(rates: tuple[float, ...], seconds: float) -> list[ArrivingRequest]:
    draw = Random(1)
    found: list[ArrivingRequest] = []
    for at in varying(steps(rates, seconds), max(rates), draw):
        if at > seconds * len(rates):
            return found
        found.append(single_request(at, 700, 10, key=len(found) + 1))
    return found


def sizes(run: ScaledRun, pool: str, begin: float, end: float) -> list[int]:
    return [numbers[pool] for at, numbers in run.replicas_at if begin <= at < end]


@pytest.mark.slow
def test_a_surge_brings_pods_that_take_time_to_start_and_they_go_again() -> None:
    coming = requests((1.0, 8.0, 1.0), 200.0)
    done = ScaledSimulation(CLUSTER, POOLS, coming, scaler()).run()
    check_nothing_is_left(done.run)
    assert max(sizes(done, "prefill", 0, 200)) == 1
    assert 3 <= max(sizes(done, "prefill", 250, 400)) <= 8
    assert sizes(done, "prefill", 540, 600)[-1] < max(sizes(done, "prefill", 250, 400))
    serving = [workers["prefill"] for at, workers in done.workers_at if 200 < at < 255]
    assert max(serving) == 1, "a pod took no time to start"
    late = [each for each in done.run.journeys if 350 < each.arrived_at < 400]
    assert sorted(each.ttft_seconds for each in late)[len(late) // 2] < 1.0


class Played:
    """Does what it is told, at its time."""

    def __init__(self, actions: Mapping[float, Flip | Scale]) -> None:
        self._actions = dict(actions)

    def decide(self, seen: ObservedLoad) -> list[Flip | Scale]:
        return [self._actions.pop(at) for at in sorted(self._actions) if at <= seen.now]


def test_a_flipped_worker_finishes_its_work_and_serves_the_other_role() -> None:
    cluster = replace(CLUSTER, groups=(replace(CLUSTER.groups[0], count=2), CLUSTER.groups[1]))
    flip = Flip(pool="prefill", pod="prefill-0-0001", role="decode", rule="flip", reason="")
    done = ScaledSimulation(cluster, POOLS, requests((8.0,), 30.0), Played({10.0: flip})).run()
    check_nothing_is_left(done.run)
    assert {each.ending for each in done.run.journeys} == {"done"}
    flipped = [each for each in done.run.journeys if (each.decode or "").startswith("prefill-0")]
    assert flipped
    assert min(each.arrived_at for each in flipped) > 12.0
    assert done.flips == 1


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    decided=st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from(["prefill", "decode"]), st.integers(1, 4)),
        max_size=8,
    ),
    failures=st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from(["prefill-0-0000", "decode-1-0000"])),
        max_size=3,
    ),
    start=st.floats(0, 20),
)
def test_whatever_is_decided_nothing_leaks_and_no_request_is_lost(
    decided: list[tuple[float, str, int]], failures: list[tuple[float, str]], start: float
) -> None:
    cluster = replace(
        CLUSTER,
        groups=tuple(replace(each, count=2, start_seconds=start) for each in CLUSTER.groups),
        failures=tuple(WorkerFailure(at=at, worker=worker) for at, worker in failures),
    )
    actions = {
        at: Scale(pool=pool, replicas=number, rule="bounds", reason="")
        for at, pool, number in decided
    }
    done = ScaledSimulation(cluster, POOLS, requests((3.0,), 30.0), Played(actions)).run()
    check_nothing_is_left(done.run)


@pytest.mark.slow
def test_a_steady_load_makes_no_pods_come_and_go() -> None:
    done = ScaledSimulation(CLUSTER, POOLS, requests((2.0,), 400.0), scaler()).run()
    late = sizes(done, "prefill", 200, 400)
    assert sum(one != other for one, other in pairwise(late)) <= 1


def test_pools_that_no_group_has_are_refused() -> None:
    with pytest.raises(SimulationError, match="prefill, decode"):
        ScaledSimulation(CLUSTER, POOLS[:1], [], scaler())
