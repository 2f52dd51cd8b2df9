"""A release: pools of pods, to which a scaler's decisions are done. Pods take a while to start, and
those that leave or change their role finish their work first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final

from lengthwise_policy.scaling.state import Action, Flip, Hold, Pod, PodPhase, Pool, PoolState
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.fleet import SimulatedFleet
from lengthwise_simulator.cluster.spec import WorkerGroup
from lengthwise_simulator.events import EventHeap

FLIP_SECONDS: Final = 2.0
"""Of a change of role, beside draining."""


@dataclass(slots=True, kw_only=True, eq=False)
class SimulatedPod:
    """One worker's, from the decision to make it on."""

    place: str  # its name, and that of its place in the fleet
    group: WorkerGroup  # of what it serves, or will
    ready_at: float  # inf: it can run nowhere
    is_leaving: bool = False
    is_changing: bool = False  # drains, and then serves its group's role

    def phase(self, *, is_serving: bool) -> PodPhase:
        if self.is_leaving or self.is_changing:
            return "leaving"
        if self.ready_at == inf:
            return "unschedulable"
        return "ready" if is_serving else "starting"


class SimulatedRelease:
    """Of the pools of one simulation; each begins with the workers of one group."""

    def __init__(
        self,
        pools: Mapping[str, tuple[Pool, WorkerGroup]],
        places: Mapping[str, Sequence[str]],
        fleet: SimulatedFleet,
        heap: EventHeap,
        *,
        schedulable: Mapping[str, int] | None = None,
    ) -> None:
        """`pools` by name, with the kind of worker that each has; `places` of the workers that are
        there. `schedulable`: pods that can run at once, of the pools where there is a limit."""
        self._pools = pools
        self._fleet = fleet
        self._heap = heap
        self._schedulable = dict(schedulable or {})
        self.replicas = {name: len(places[name]) for name in pools}
        self._pods = {
            name: [
                SimulatedPod(place=place, group=pools[name][1], ready_at=0.0)
                for place in places[name]
            ]
            for name in pools
        }
        self._made = 0
        self.changes = 0
        self.flips = 0

    @property
    def num_pods(self) -> int:
        """That exist, ready or not, but those that can run nowhere."""
        return sum(pod.ready_at < inf for pods in self._pods.values() for pod in pods)

    def states(self) -> list[PoolState]:
        return [
            PoolState(
                pool=pool,
                replicas=self.replicas[name],
                pods=tuple(self._seen(pod) for pod in self._pods[name]),
            )
            for name, (pool, _) in self._pools.items()
        ]

    def apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Hold):
                continue
            pods = self._pods[action.pool]
            if isinstance(action, Flip):
                self._flip(next(pod for pod in pods if pod.place == action.pod), action.role)
            else:
                self._scale(action.pool, action.replicas, action.leaving)

    def _seen(self, pod: SimulatedPod) -> Pod:
        worker = self._fleet.at(pod.place)
        return Pod(
            name=pod.place,
            role=worker.role if worker is not None else pod.group.role,
            phase=pod.phase(is_serving=worker is not None),
            running_requests=worker.num_requests if worker is not None else 0,
        )

    def _scale(self, name: str, replicas: int, leaving: Sequence[str]) -> None:
        now, pods = self._heap.now, self._pods[name]
        self.changes += replicas != self.replicas[name]
        self.replicas[name] = replicas
        going = sorted(
            (pod for pod in pods if not pod.is_leaving),
            key=lambda pod: (
                pod.place not in leaving,
                pod.ready_at <= now,
                self._seen(pod).running_requests,
            ),
        )
        for pod in going[: max(len(going) - replicas, 0)]:
            pod.is_leaving = True
            if pod.ready_at <= now:
                self._fleet.drain(pod.place, partial(pods.remove, pod))
            else:
                pods.remove(pod)
        for _ in range(replicas - len(going)):
            self._make(name)

    def _make(self, name: str) -> None:
        _, group = self._pools[name]
        pods = self._pods[name]
        self._made += 1
        running = sum(pod.ready_at < inf for pod in pods)
        can_run = running < self._schedulable.get(name, inf)
        ready_at = self._heap.now + group.start_seconds if can_run else inf
        pod = SimulatedPod(place=f"{name}-{self._made}", group=group, ready_at=ready_at)
        pods.append(pod)
        if can_run:
            self._heap.at(ready_at, self._start, pod)

    def _start(self, pod: SimulatedPod) -> None:
        if not pod.is_leaving:
            self._fleet.start(pod.place, pod.group)

    def _flip(self, pod: SimulatedPod, role: Role) -> None:
        self.flips += 1
        pod.is_changing = True
        pod.group = replace(pod.group, role=role)
        self._fleet.drain(pod.place, partial(self._change, pod))

    def _change(self, pod: SimulatedPod) -> None:
        pod.is_changing = False
        pod.ready_at = self._heap.now + FLIP_SECONDS
        self._heap.at(pod.ready_at, self._start, pod)
