"""How a group's change falls on its pools: which get new pods, and which pods go.

New pods go to the first pools with room; a pool with pods that can run nowhere has none. What goes
first are pods that do not run, then those that start, then ready ones, within each the last pool's
first, and of those the ones that lose least: fewest running requests, then fewest cached blocks.
No ready pod is given up while one starts that could be: until it runs it carries nothing.

Invariant: a pool stays within its bounds, and a pool with a pod that changes roles gives none away:
while it changes it is not ready, and Kubernetes deletes pods that are not ready before others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lengthwise_policy.scaling.pools import PHASE_RANK, PoolView, serves
from lengthwise_policy.scaling.state import Group, Pod, PodPhase, PoolName
from lengthwise_policy.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """What leaves one pool."""

    pods: tuple[Pod, ...]  # cheapest first
    unmade: int  # pods that are not there yet

    @property
    def count(self) -> int:
        return len(self.pods) + self.unmade

    @property
    def num_unschedulable(self) -> int:
        return self.unmade + sum(pod.phase == "unschedulable" for pod in self.pods)


def share_out(views: Sequence[PoolView], number: int, now: float) -> dict[PoolName, int]:
    """New pods by pool; fewer than `number` in all when there is no room for more."""
    given: dict[PoolName, int] = {}
    for view in views:
        part = min(view.room(now), number)
        if part > 0:
            given[view.state.pool.name] = part
            number -= part
    return given


def share_in(
    views: Sequence[PoolView],
    number: int,
    flipping: Mapping[str, Role],
    *,
    up_to: PodPhase = "ready",
) -> dict[PoolName, Leaving]:
    """`number` of a group's pods to give up, or as many as its pools' bounds allow.

    `up_to`: no pod goes that is worth more than those in this phase.
    """
    candidates: list[tuple[tuple[int, int, int, int, str], PoolView, Pod | None]] = []
    left: Counter[PoolName] = Counter()
    for index, view in enumerate(views):
        if view.held is not None or any(pod.name in flipping for pod in view.pods):
            continue
        left[view.state.pool.name] = view.replicas - view.state.pool.min_replicas
        unmade = [PHASE_RANK["unschedulable"]] * view.unmade
        making = [PHASE_RANK["starting"]] * view.making
        candidates += [((rank, -index, -1, 0, ""), view, None) for rank in unmade + making]
        for pod in view.pods:
            if serves(view, pod.role) == view.group:
                worth = (
                    PHASE_RANK[pod.phase],
                    -index,
                    pod.running_requests,
                    pod.cached_blocks,
                    pod.name,
                )
                candidates.append((worth, view, pod))
    candidates.sort(key=lambda each: each[0])
    chosen: dict[PoolName, list[Pod | None]] = {}
    for key, view, candidate in candidates:
        name = view.state.pool.name
        if number > 0 and left[name] > 0 and key[0] <= PHASE_RANK[up_to]:
            chosen.setdefault(name, []).append(candidate)
            left[name] -= 1
            number -= 1
    return {
        name: Leaving(pods=tuple(pod for pod in pods if pod), unmade=pods.count(None))
        for name, pods in chosen.items()
    }


def num_away(views: Sequence[PoolView], group: Group, flipping: Mapping[str, Role]) -> int:
    """Ready pods of the group's pools that serve another group."""
    return sum(
        serves(view, pod.role) != group and pod.phase == "ready" and pod.name not in flipping
        for view in views
        for pod in view.pods
    )
