"""Small clusters and workloads for tests of the simulator."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from harness.block_integrity import check_cache

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.sweep import SweepPoint
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request

COST = CostModel(
    step_seconds=0.006,
    token_seconds=2e-5,
    attention_seconds=1e-10,
    history_seconds=1e-8,
    decode_request_seconds=5e-5,
    decode_context_seconds=2e-8,
)


def group(role: Role, count: int, *, kv_tokens: int = 100_000, link: float = 25e9) -> WorkerGroup:
    return WorkerGroup(
        role=role,
        count=count,
        costs=LinearCosts(COST),
        kv_tokens=kv_tokens,
        kv_bytes_per_token=131_072,
        link_bytes_per_second=link,
    )


def random_requests(number: int, *, rate: float, seed: int = 0) -> Iterator[ArrivingRequest]:
    draw, at = Random(seed), 0.0
    for key in range(1, number + 1):
        at += draw.expovariate(rate)
        prompt, output = draw.lognormvariate(5.5, 1.2), draw.lognormvariate(3.0, 0.8)
        yield single_request(at, int(prompt) + 1, int(output) + 1, key=key)


def check_nothing_is_left(run: SimulatedRun) -> None:
    """Every request has ended, and every block is free, but those of workers that are gone."""
    for journey in run.journeys:
        assert journey.ending is not None
        if journey.ending == "done":
            assert journey.generated == journey.request.output_tokens
            assert journey.arrived_at <= journey.first_token_at <= journey.ended_at
    for worker in run.workers:
        if worker.is_gone:
            continue
        assert worker.blocks.num_free == worker.blocks.num_blocks
        check_cache(worker.blocks)


@dataclass(frozen=True)
class SmallRun:
    """Of a point of a sweep, in any process."""

    def __call__(self, point: SweepPoint) -> RunSummary:
        groups = (group("prefill", point.prefill), group("decode", point.decode))
        requests = random_requests(5, rate=point.rate, seed=point.seed)
        return RunSummary.of(Simulation(ClusterSpec(groups=groups), requests).run())
