"""Deployments whose pods take decisions' time to start, leave and change roles, for scaling tests.

No work is done here: demands are given. The simulator closes that loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import (
    Action,
    Demand,
    Flip,
    Group,
    Pod,
    Pool,
    PoolName,
    PoolState,
    Scale,
)
from lengthwise_policy.types import Role

INTERVAL = 5.0
STEPS_TO_START = 3
STEPS_TO_CHANGE = 2


@dataclass(slots=True, kw_only=True)
class LivePod:
    name: str
    role: Role
    steps: int  # until it is ready
    target: Role | None = None
    leaving: int = 0  # steps until it is gone


class World:
    """Pools by name, one decision of the scaler every step."""

    def __init__(self, scaler: Scaler, pools: Sequence[Pool], replicas: Mapping[str, int]) -> None:
        self.scaler = scaler
        self.now = 0.0
        self.pools = {pool.name: pool for pool in pools}
        self.replicas = dict(replicas)
        self.pods: dict[PoolName, list[LivePod]] = {pool.name: [] for pool in pools}
        self.places = dict.fromkeys(self.pools, 100)  # pods that find a node
        self.paused: set[PoolName] = set()
        self.refusing = False
        self._made = 0
        for name in self.pools:
            self.reconcile(name, steps=0)

    def states(self) -> list[PoolState]:
        return [
            PoolState(
                pool=pool,
                replicas=self.replicas[name],
                pods=tuple(self._pod(name, index) for index in range(len(self.pods[name]))),
                paused=name in self.paused,
            )
            for name, pool in self.pools.items()
        ]

    def step(self, demands: Mapping[Group, Demand]) -> list[Action]:
        """Time goes on, then the scaler decides and its actions begin."""
        self.now += INTERVAL
        self._progress()
        actions = self.scaler.decide(self.now, self.states(), demands)
        for action in actions:
            if isinstance(action, Scale):
                self.replicas[action.pool] = action.replicas
                self.reconcile(action.pool, leaving=action.leaving)
            elif isinstance(action, Flip) and not self.refusing:
                pod = next(pod for pod in self.pods[action.pool] if pod.name == action.pod)
                pod.target, pod.steps = action.role, STEPS_TO_CHANGE
        return actions

    def reconcile(
        self, name: PoolName, steps: int = STEPS_TO_START, leaving: Sequence[str] = ()
    ) -> None:
        """What a Deployment's controllers do."""
        pods = self.pods[name]
        staying = sorted(
            (pod for pod in pods if not pod.leaving),
            key=lambda pod: (pod.steps == 0, pod.name not in leaving),
        )
        for pod in staying[: max(len(staying) - self.replicas[name], 0)]:
            pod.leaving = 2
        for _ in range(self.replicas[name] - len(staying)):
            self._made += 1
            role = self.pools[name].role
            pods.append(LivePod(name=f"{name}-{self._made}", role=role, steps=steps))

    def _progress(self) -> None:
        for name, pods in self.pods.items():
            for index, pod in enumerate(tuple(pods)):
                if pod.leaving:
                    pod.leaving -= 1
                    if not pod.leaving:
                        pods.remove(pod)
                elif pod.steps and (index < self.places[name] or pod.target is not None):
                    pod.steps -= 1
                    if not pod.steps and pod.target is not None:
                        pod.role, pod.target = pod.target, None

    def _pod(self, name: PoolName, index: int) -> Pod:
        pod = self.pods[name][index]
        seen = Pod(name=pod.name, role=pod.role, phase="ready")
        if pod.leaving or pod.target is not None:
            return replace(seen, phase="leaving")
        if not pod.steps:
            return seen
        return replace(seen, phase="starting" if index < self.places[name] else "unschedulable")
