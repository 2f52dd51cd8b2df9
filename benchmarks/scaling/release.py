"""The release that is scaled: two pools of a simulated cluster, and what came of one play."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.scaling.state import Pool
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.scaling.scaled_simulation import (
    ScaledRun,
    ScaledSimulation,
    ScalingController,
)
from lengthwise_simulator.workload.planned import ArrivingRequest

COST: Final = CostModel(
    step_seconds=0.02,
    token_seconds=4e-4,
    attention_seconds=0.0,
    history_seconds=0.0,
    decode_request_seconds=5e-4,
    decode_context_seconds=3e-7,
)
"""2,500 prompt tokens per second; 0.05 s a token with 33 requests of 1,300 tokens."""

OBJECTIVES: Final = Objectives(ttft_short_seconds=0.4, ttft_long_seconds=2.0, tpot_seconds=0.05)
KV_TOKENS: Final = 96_000
START_SECONDS: Final = 60.0
MAX_REPLICAS: Final = 12

POLICIES: Final = ClusterPolicies(
    placement=PlacementPolicy(objectives=OBJECTIVES, local_prefill=False),
    no_worker_seconds=2 * START_SECONDS,  # pools may shrink to nothing
)
"""Each pool does its own work alone, for the rules of others are told of one pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPlay:
    """What a controller achieved."""

    scaled: ScaledRun

    @property
    def in_time(self) -> float:
        """Share of the requests that met both objectives."""
        return self.in_time_of(0.0, float("inf"))

    def in_time_of(self, begin: float, end: float) -> float:
        """Of those that arrived then."""
        journeys = [each for each in self.scaled.run.journeys if begin <= each.arrived_at < end]
        return sum(each.meets(OBJECTIVES) for each in journeys) / len(journeys)

    @property
    def mean_workers(self) -> float:
        """Pods that exist, ready or not."""
        return self.scaled.worker_seconds / self.scaled.run.seconds


def play(
    controller: ScalingController,
    requests: Sequence[ArrivingRequest],
    *,
    pools: Sequence[Pool] | None = None,
    replicas: Sequence[int] = (2, 2),
    schedulable: dict[str, int] | None = None,
) -> ScaledPlay:
    """`replicas`: of each pool at the beginning."""
    pools = two_pools() if pools is None else pools
    groups = [_group(pool.role, count) for pool, count in zip(pools, replicas, strict=True)]
    cluster = ClusterSpec(groups=tuple(groups), policies=POLICIES)
    simulation = ScaledSimulation(cluster, pools, requests, controller, schedulable=schedulable)
    return ScaledPlay(scaled=simulation.run())


def two_pools(*, flexible: bool = False, least: int = 1) -> list[Pool]:
    """Called like their roles."""
    roles: tuple[Role, ...] = ("prefill", "decode")
    return [
        Pool(
            name=role,
            role=role,
            min_replicas=least,
            max_replicas=MAX_REPLICAS,
            flexible=flexible,
        )
        for role in roles
    ]


def _group(role: Role, count: int) -> WorkerGroup:
    return WorkerGroup(
        role=role,
        count=count,
        costs=LinearCosts(COST),
        kv_tokens=KV_TOKENS,
        kv_bytes_per_token=131_072,
        link_bytes_per_second=25e9,
        start_seconds=START_SECONDS,
    )
