"""Pools as scaling sees them: which pods stay, which group they serve, what may be changed.

A pod serves the group of its pool, or, flipped, the pools of the other role without length class.
Of the pods that a pool has, only as many stay as it has replicas, the dearest ones; what it has
fewer is being made. Thus neither a scale out nor a scale in that is under way is answered twice.

What is remembered between instants is `PoolMemory`'s, and only what observations cannot show.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.state import Group, Pod, PodPhase, PoolState, Reason
from lengthwise_policy.types import Role

# A Deployment's pods are there within a second, whether they can run or not. What is missing for so
# long is not being made (a quota forbids it), or its place is taken by a pod that drains.
MAKING_SECONDS = 30.0

# Cheapest first: what a pod's going loses.
PHASE_RANK: Mapping[PodPhase, int] = {"unschedulable": 0, "leaving": 0, "starting": 1, "ready": 2}


def cheapness(pod: Pod) -> tuple[int, int, int, str]:
    """Sorts the pods that should leave first to the front."""
    return (PHASE_RANK[pod.phase], pod.running_requests, pod.cached_blocks, pod.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One pool now."""

    state: PoolState
    replicas: int  # within the pool's bounds, where it may be changed
    pods: tuple[Pod, ...]  # that stay, cheapest first; those that change roles too
    making: int  # replicas without a pod, for a moment
    unmade: int  # replicas without a pod, for longer: a quota shows like that
    held: Reason | None  # when it may not be changed
    retry_at: float  # unschedulable pods were given back; until then it gets no new ones

    @property
    def group(self) -> Group:
        return (self.state.pool.role, self.state.pool.length_class)

    @property
    def num_unschedulable(self) -> int:
        return self.unmade + sum(pod.phase == "unschedulable" for pod in self.pods)

    def room(self, now: float) -> int:
        """Pods that it may be given."""
        if self.held is not None or self.num_unschedulable or now < self.retry_at:
            return 0
        return max(self.state.pool.max_replicas - self.replicas, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCapacity:
    """The pods that serve one group, of whatever pools."""

    ready: tuple[tuple[PoolView, Pod], ...]
    coming: int  # start, change to this role, or are being made
    unschedulable: int

    @property
    def num_workers(self) -> int:
        """Workers that are there or will be."""
        return len(self.ready) + self.coming


def capacities(
    views: Sequence[PoolView], flipping: Mapping[str, Role]
) -> dict[Group, GroupCapacity]:
    """Of every group that has a pool or a pod; `flipping`: pods on their way to a role."""
    ready: dict[Group, list[tuple[PoolView, Pod]]] = {}
    coming: Counter[Group] = Counter()
    unschedulable: Counter[Group] = Counter()
    for view in views:
        coming[view.group] += view.making
        unschedulable[view.group] += view.num_unschedulable
        for pod in view.pods:
            group = serves(view, flipping.get(pod.name, pod.role))
            if pod.name in flipping or pod.phase == "starting":
                coming[group] += 1
            elif pod.phase == "ready":
                ready.setdefault(group, []).append((view, pod))
    return {
        group: GroupCapacity(
            ready=tuple(ready.get(group, ())),
            coming=coming[group],
            unschedulable=unschedulable[group],
        )
        for group in {*coming, *ready}
    }


def serves(view: PoolView, role: Role) -> Group:
    """The group that a pod of the pool works for while it has this role."""
    return view.group if role == view.state.pool.role else (role, None)


class PoolMemory:
    """What was written to a pool, to know an operator's edits from the scaler's own."""

    def __init__(self, replicas: int) -> None:
        # That may be observed without another writer: what was last seen, and what
        # was written since (a write may fail, or show late).
        self._expected = {replicas}
        self._written = replicas
        self._held_until: float | None = None
        self._missing = 0
        self._missing_since = 0.0
        self.retry_at = -float("inf")

    def wrote(self, replicas: int) -> None:
        self._expected.add(replicas)
        self._written = replicas

    def see_replicas(self, now: float, replicas: int, policy: ScalingPolicy) -> bool:
        """Whether another has written."""
        is_edited = replicas not in self._expected
        if is_edited:
            self._held_until = now + policy.manual_hold_seconds
        if is_edited or replicas == self._written:
            self._expected = {replicas}
            self._written = replicas
        return is_edited

    def held_for(self, now: float) -> float | None:
        """Seconds for which an operator's number still stands."""
        if self._held_until is None or now >= self._held_until:
            return None
        return self._held_until - now

    def is_making(self, now: float, missing: int) -> bool:
        """Whether pods that are missing can be expected."""
        if missing > self._missing:
            self._missing_since = now
        self._missing = missing
        return now - self._missing_since <= MAKING_SECONDS


def look(
    now: float, state: PoolState, memory: PoolMemory, flipping: Mapping[str, Role], has_demand: bool
) -> PoolView:
    """One pool at this moment; edits have been noted before."""
    pool = state.pool
    held = _held(now, state, memory, has_demand)
    replicas = state.replicas
    if held is None or held.rule == "data missing":
        replicas = min(max(replicas, pool.min_replicas), pool.max_replicas)
    there = [pod for pod in state.pods if pod.phase != "leaving" or pod.name in flipping]
    there.sort(key=cheapness)
    # A pod more than the replicas is about to leave: it carries nothing any more.
    there = there[max(len(there) - replicas, 0) :]
    missing = replicas - len(there)
    is_making = memory.is_making(now, missing)
    return PoolView(
        state=state,
        replicas=replicas,
        pods=tuple(there),
        making=missing if is_making else 0,
        unmade=0 if is_making else max(replicas - len(state.pods), 0),
        held=held,
        retry_at=memory.retry_at,
    )


def _held(now: float, state: PoolState, memory: PoolMemory, has_demand: bool) -> Reason | None:
    if state.paused:
        return Reason("paused", "an operator wants it left alone")
    seconds = memory.held_for(now)
    if seconds is not None:
        return Reason("manual edit", f"{state.replicas} replicas stand for {seconds:.0f} s more")
    if not has_demand:
        group = "/".join(filter(None, (state.pool.role, state.pool.length_class)))
        return Reason("data missing", f"no demand of {group} is known")
    return None
