"""Which pods of flexible pools should serve the other role.

A role starves while it needs more workers than it has or will have. It is given ready workers by
the other role, as many as that one can spare:

    workers there >= what it needs now, and would have carried the last `flip_seconds` with, >= 1

It has to starve in two decisions in a row. Flips wait for those before them to be done, and flips
in the other direction for `flip_seconds`. Workers that are at home in the starving role come first.
A flipped pod also returns when the other role has not needed it for the whole stable window: then
it returns before any pod is deleted.

Invariant: the giving role does not starve by it. With the time between reversals, and the donor's
margin, no pod goes back and forth. A pod that ignores a flip is left alone for a while, so that
pods are made instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.pools import GroupCapacity, PoolView, cheapness
from lengthwise_policy.scaling.state import Flip, FlipRule, Group, Pod, PoolState
from lengthwise_policy.scaling.window import DemandWindow
from lengthwise_policy.types import Role

# Draining before a flip ends with the longest reply; a pod that needs longer is not counted on any
# more, and one that ignored a flip is not asked again for so long.
PATIENCE_SECONDS = 300.0

# Before it shows that a pod has begun to change: a few scrapes.
NOTICE_SECONDS = 30.0

OTHER: Mapping[Role, Role] = {"prefill": "decode", "decode": "prefill"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipPlan:
    """Flips of now, and workers that are to be flipped as soon as hysteresis allows."""

    flips: tuple[Flip, ...]
    expected: Mapping[Role, int]  # to be flipped, by the role that gets them
    leaving: Mapping[Role, int]  # flipped pods to return, by the role that has them now


@dataclass(frozen=True, slots=True, kw_only=True)
class _PendingFlip:
    role: Role
    at: float


class RoleFlips:
    """Remembers which pods change, which role starves and when the last flip was."""

    def __init__(self, policy: ScalingPolicy) -> None:
        self._policy = policy
        self._pending: dict[str, _PendingFlip] = {}
        self._refused_at: dict[str, float] = {}
        self._starving: dict[Role, int] = {"prefill": 0, "decode": 0}  # decisions in a row
        self._flipped_at = -float("inf")
        self._flipped_to: Role = "prefill"

    @property
    def pending(self) -> Mapping[str, Role]:
        """Pods on their way to a role."""
        return {name: pending.role for name, pending in self._pending.items()}

    def follow(self, now: float, pools: Sequence[PoolState]) -> None:
        """Ends the flips that are done, failed, or whose pod is gone."""
        pods = {pod.name: pod for state in pools for pod in state.pods}
        self._refused_at = {
            name: at
            for name, at in self._refused_at.items()
            if name in pods and now - at < PATIENCE_SECONDS
        }
        for name, pending in tuple(self._pending.items()):
            pod = pods.get(name)
            seconds = now - pending.at
            is_ready = pod is not None and pod.phase == "ready"
            is_done = pod is not None and is_ready and pod.role == pending.role
            is_refused = (is_ready and seconds > NOTICE_SECONDS) or seconds > PATIENCE_SECONDS
            if pod is None or is_done or is_refused:
                del self._pending[name]
            if pod is not None and is_refused and not is_done:
                self._refused_at[name] = now

    def plan(
        self,
        now: float,
        capacities: Mapping[Group, GroupCapacity],
        windows: Mapping[Group, DemandWindow],
    ) -> FlipPlan:
        """`windows`: only of groups whose demand is known."""
        expected: dict[Role, int] = {}
        chosen: list[Flip] = []
        for role in OTHER:
            lacking = self._lacking(role, capacities, windows)
            self._starving[role] = self._starving[role] + 1 if lacking else 0
            if not lacking:
                continue
            spare = self._spare(OTHER[role], capacities, windows, self._policy.flip_seconds)
            if self._starving[role] > 1 and self._is_due(now, role):
                why = f"{role} lacks {lacking}, {OTHER[role]} can spare {len(spare)}"
                chosen += _flips(spare[:lacking], role, "flip", why)
            else:
                expected[role] = min(lacking, len(spare))
        leaving: dict[Role, int] = {}
        for role in OTHER:
            if any(self._starving.values()):
                continue
            spare = self._spare(role, capacities, windows, self._policy.scale_in_seconds)
            flipped = [(view, pod) for view, pod in spare if view.state.pool.role != role]
            if self._is_due(now, OTHER[role]):
                seconds = f"{self._policy.scale_in_seconds:g}"
                why = f"{role} has not needed it for {seconds} s"
                chosen += _flips(flipped, OTHER[role], "home", why)
            else:
                leaving[role] = len(flipped)
        for flip in chosen:
            self._pending[flip.pod] = _PendingFlip(role=flip.role, at=now)
            self._flipped_at, self._flipped_to = now, flip.role
        return FlipPlan(flips=tuple(chosen), expected=expected, leaving=leaving)

    def _is_due(self, now: float, role: Role) -> bool:
        """Whether a flip to this role may begin: after those in the same direction, or later."""
        if self._pending:
            return False
        is_reversal = role != self._flipped_to
        return not is_reversal or now - self._flipped_at >= self._policy.flip_seconds

    def _lacking(
        self,
        role: Role,
        capacities: Mapping[Group, GroupCapacity],
        windows: Mapping[Group, DemandWindow],
    ) -> int:
        window, capacity = windows.get((role, None)), capacities.get((role, None))
        if window is None:
            return 0
        return max(window.needed_now() - (capacity.num_workers if capacity else 0), 0)

    def _spare(
        self,
        role: Role,
        capacities: Mapping[Group, GroupCapacity],
        windows: Mapping[Group, DemandWindow],
        seconds: float,
    ) -> list[tuple[PoolView, Pod]]:
        """Ready workers that a role can give away: flipped ones first, then the cheapest."""
        window, capacity = windows.get((role, None)), capacities.get((role, None))
        enough = window.enough(seconds, self._policy.margin) if window else None
        if capacity is None or enough is None:
            return []
        able = [
            (view, pod)
            for view, pod in capacity.ready
            if view.state.pool.flexible and view.held is None and pod.name not in self._refused_at
        ]
        able.sort(key=lambda each: (each[0].state.pool.role == role, cheapness(each[1])))
        return able[: max(len(capacity.ready) - enough, 0)]


def _flips(
    chosen: Sequence[tuple[PoolView, Pod]], role: Role, rule: FlipRule, why: str
) -> Iterator[Flip]:
    for view, pod in chosen:
        pool = view.state.pool.name
        yield Flip(pool=pool, pod=pod.name, role=role, rule=rule, reason=f"{rule}: {why}")
