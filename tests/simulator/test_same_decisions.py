"""One workload through the real services in virtual time and through the simulator: every decision
is the same, at the same instant."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from simulator.clusters import group
from simulator.decisions import Decision, Recorder
from simulator.real_services import RealCluster

from lengthwise_policy.placement.placement import Placement, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.router import SimulatedRouter
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.text import TextSpan

INSTANT = 1e18  # bytes a second: KV takes no time, as in the real services' transfer
TOY_BYTES_PER_TOKEN = 64  # of KV: one layer, K and V, two heads of four numbers in float32
ROLES: tuple[Role, ...] = ("prefill", "decode")
CLUSTER = ClusterSpec(
    groups=tuple(
        replace(
            group(role, 2, kv_tokens=16_000, link=INSTANT), kv_bytes_per_token=TOY_BYTES_PER_TOKEN
        )
        for role in ROLES
    ),
    longest_prompt=4096,
)


def workload(number: int, *, rate: float, seed: int) -> list[ArrivingRequest]:
    """Prompts of all lengths, some with a beginning in common, once all workers are connected."""
    draw, at = Random(seed), 2.0
    requests = []
    for key in range(1000, 1000 + number):
        at += draw.expovariate(rate)
        prompt = min(int(draw.lognormvariate(5.0, 1.3)) + 1, 3000)
        output = min(int(draw.lognormvariate(2.5, 0.8)) + 1, 100)
        shared = (TextSpan(draw.randrange(3), 160),) if prompt > 200 and draw.random() < 0.5 else ()
        begun = sum(span.num_tokens for span in shared)
        requests.append(
            ArrivingRequest(
                arrived_at=at,
                prompt_tokens=prompt,
                output_tokens=output,
                max_new_tokens=output,
                text=(*shared, TextSpan(key, prompt - begun)),
            )
        )
    return requests


def simulated(
    cluster: ClusterSpec, requests: Sequence[ArrivingRequest], patch: pytest.MonkeyPatch
) -> tuple[Simulation, dict[str, Sequence[Decision]]]:
    simulation = Simulation(cluster, requests)
    recorder = Recorder(lambda: simulation.heap.now, lambda name: name.partition("/")[0])
    recorder.attach(patch)
    begin = SimulatedRouter._begin

    def begun(
        router: SimulatedRouter, journey: Journey, asked: PlacementRequest, chosen: Placement
    ) -> None:
        recorder.placed(str(journey.number), chosen)
        begin(router, journey, asked, chosen)

    patch.setattr(SimulatedRouter, "_begin", begun)
    done = simulation.run()
    assert all(journey.ending == "done" for journey in done.journeys)
    schedulers = {str(each.worker_id): each.scheduler for each in done.workers}  # type: ignore[attr-defined]
    return simulation, recorder.of(schedulers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "kv_tokens", "local"), [(2, 16_000, True), (1, 6400, True), (2, 16_000, False)]
)
def test_the_simulator_decides_what_the_services_decide(
    workers: int, kv_tokens: int, local: bool, tmp_path: Path
) -> None:
    groups = (replace(each, count=workers, kv_tokens=kv_tokens) for each in CLUSTER.groups)
    placement = PlacementPolicy(local_prefill=local)
    cluster = replace(CLUSTER, groups=tuple(groups), policies=ClusterPolicies(placement=placement))
    requests = workload(50, rate=60, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        simulation, expected = simulated(cluster, requests, patch)
    fits = [simulation.fleet.fit(each) for each in cluster.groups]
    with pytest.MonkeyPatch.context() as patch:
        found = RealCluster(cluster, fits, tmp_path, patch).run(requests)
    assert found.keys() == expected.keys()
    for name, decisions in found.items():
        for real, ours in zip(decisions, expected[name], strict=False):
            assert real.what == ours.what, f"{name}: {real}, simulated {ours}"
            assert real.at == pytest.approx(ours.at, abs=1e-6), f"{name}: {real}"
        assert len(decisions) == len(expected[name]), name
