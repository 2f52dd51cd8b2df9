"""A simulation whose pools a controller sizes, every few seconds, by what it is shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lengthwise_policy.scaling.demand import DemandPolicy, decode_demand, prefill_demand
from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import Action, Demand, Group, Pool
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.cluster.spec import ClusterSpec
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.scaling.observed import (
    INTERVAL_SECONDS,
    ROLES,
    LoadObserver,
    ObservedLoad,
)
from lengthwise_simulator.scaling.release import SimulatedRelease
from lengthwise_simulator.workload.planned import ArrivingRequest


class ScalingController(Protocol):
    """Decides like a Scaler."""

    def decide(self, seen: ObservedLoad) -> Sequence[Action]: ...


class ScalerController:
    """The code that scales in a cluster."""

    def __init__(self, policy: ScalingPolicy, demand: DemandPolicy) -> None:
        self._scaler = Scaler(policy)
        self._demand = demand

    def decide(self, seen: ObservedLoad) -> Sequence[Action]:
        demands: dict[Group, Demand] = {
            ("prefill", None): prefill_demand(seen.prefill, self._demand, seen.ready("prefill")),
            ("decode", None): decode_demand(seen.decode, self._demand, seen.ready("decode")),
        }
        return self._scaler.decide(seen.now, seen.pools, demands)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledRun:
    """What became of everything, and what it cost."""

    run: SimulatedRun
    worker_seconds: float  # of pods that exist, ready or not
    peak_workers: int
    changes: int  # of replicas
    flips: int
    workers_at: Sequence[tuple[float, Mapping[Role, int]]]  # that serve, every interval
    replicas_at: Sequence[tuple[float, Mapping[str, int]]]


class ScaledSimulation:
    """Life: construct, `run` once."""

    def __init__(
        self,
        cluster: ClusterSpec,
        pools: Sequence[Pool],
        workload: Iterable[ArrivingRequest],
        controller: ScalingController,
        *,
        schedulable: Mapping[str, int] | None = None,
    ) -> None:
        """`pools`: one for each group of the cluster, which has its first workers. `schedulable` as
        in `SimulatedRelease`. Errors: SimulationError."""
        if [pool.role for pool in pools] != [group.role for group in cluster.groups]:
            raise SimulationError(
                f"pools: got those of {', '.join(pool.role for pool in pools)}, expected one for"
                f" each group of workers: {', '.join(group.role for group in cluster.groups)}"
            )
        self._simulation = Simulation(cluster, workload)
        self._controller = controller
        heap, fleet = self._simulation.heap, self._simulation.fleet
        self._heap = heap
        of_pools = {
            pool.name: (pool, group) for pool, group in zip(pools, cluster.groups, strict=True)
        }
        named = list(cluster.workers())
        places = {
            name: [place for place, of in named if of is group]
            for name, (_, group) in of_pools.items()
        }
        self._release = SimulatedRelease(of_pools, places, fleet, heap, schedulable=schedulable)
        groups = {group.role: group for group in cluster.groups}
        self._observer = LoadObserver(fleet, groups, self._simulation.journeys, cluster.block_size)
        self._worker_seconds = 0.0
        self._peak = self._release.num_pods
        self._workers_at: list[tuple[float, Mapping[Role, int]]] = []
        self._replicas_at: list[tuple[float, Mapping[str, int]]] = []

    def run(self) -> ScaledRun:
        """Until every request has ended."""
        self._heap.after(INTERVAL_SECONDS, self._decide)
        run = self._simulation.run()
        return ScaledRun(
            run=run,
            worker_seconds=self._worker_seconds,
            peak_workers=self._peak,
            changes=self._release.changes,
            flips=self._release.flips,
            workers_at=self._workers_at,
            replicas_at=self._replicas_at,
        )

    def _decide(self) -> None:
        if self._simulation.has_ended:
            return
        now = self._heap.now
        self._worker_seconds += INTERVAL_SECONDS * self._release.num_pods
        seen = self._observer.look(now, self._release.states())
        self._workers_at.append((now, {role: seen.ready(role) for role in ROLES}))
        self._release.apply(self._controller.decide(seen))
        self._replicas_at.append((now, dict(self._release.replicas)))
        self._peak = max(self._peak, self._release.num_pods)
        self._heap.after(INTERVAL_SECONDS, self._decide)
