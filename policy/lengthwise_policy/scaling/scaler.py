"""How many replicas each pool should have, and which pods change roles, decided every few seconds.

    lacking = needed now - workers there and coming
        > 0  roles are flipped, then pods are made, in the order of the pools
    surplus = workers there, coming and unschedulable - enough for the whole stable window
        > 0  flipped pods return to their role, then pods go, the cheapest first

Between the two a group is left as it is. Pods on their way count as there, so that nothing is
asked for twice; pods that can run nowhere do not, so that other pools help out, but they do count
as surplus, so that they are given back once no group needs them.

An operator's number of replicas, seen as one that was neither there nor written by us, stands for
a while even outside the bounds: the pool is not touched, its pods keep their roles, and its workers
count for their group. Then scaling goes on from there, within the bounds. The first look at
a pool takes what is there as its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.pools import GroupCapacity, PoolMemory, PoolView, capacities, look
from lengthwise_policy.scaling.roles import OTHER, FlipPlan, RoleFlips
from lengthwise_policy.scaling.shares import Leaving, num_away, share_in, share_out
from lengthwise_policy.scaling.state import (
    Action,
    Demand,
    Group,
    Hold,
    PoolName,
    PoolState,
    Reason,
    Scale,
)
from lengthwise_policy.scaling.window import DemandWindow
from lengthwise_policy.types import Role

NO_CAPACITY = GroupCapacity(ready=(), coming=0, unschedulable=0)
NO_DEMAND = Reason("data missing", "no demand is known")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What one group does at this instant."""

    reason: Reason
    added: Mapping[PoolName, int] = field(default_factory=dict)
    leaving: Mapping[PoolName, Leaving] = field(default_factory=dict)
    lacking: int = 0  # workers that are needed and not made now
    num_pools: int  # of the group


class Scaler:
    """Decides for all pools of a release; keep one per leadership."""

    def __init__(self, policy: ScalingPolicy) -> None:
        self._policy = policy
        self.forget()

    def forget(self) -> None:
        """Leadership was lost: others may do anything until it comes back."""
        self._memories: dict[PoolName, PoolMemory] = {}
        self._windows: dict[Group, DemandWindow] = {}
        self._flips = RoleFlips(self._policy)

    def decide(
        self, now: float, pools: Sequence[PoolState], demands: Mapping[Group, Demand]
    ) -> list[Action]:
        """Flips, then one Scale or Hold per pool, in the order of `pools`.

        `now` never decreases. A group that is not in `demands` lacks data: its pools are held, but
        for replicas outside their bounds.
        """
        self._see(now, pools, demands)
        self._flips.follow(now, pools)
        flipping = self._flips.pending
        views = [
            look(
                now,
                state,
                self._memories[state.pool.name],
                flipping,
                (state.pool.role, state.pool.length_class) in demands,
            )
            for state in pools
        ]
        known = {group: self._windows[group] for group in demands}
        plan = self._flips.plan(now, capacities(views, flipping), known)
        flipping = self._flips.pending
        staffed = capacities(views, flipping)
        changes = self._changes(now, views, staffed, plan, flipping, known)
        return [*plan.flips, *(self._action(now, view, changes.get(view.group)) for view in views)]

    def _see(self, now: float, pools: Sequence[PoolState], demands: Mapping[Group, Demand]) -> None:
        names = {state.pool.name for state in pools}
        self._memories = {name: kept for name, kept in self._memories.items() if name in names}
        edited: set[Group] = set()
        for state in pools:
            pool = state.pool
            memory = self._memories.setdefault(pool.name, PoolMemory(state.replicas))
            if memory.see_replicas(now, state.replicas, self._policy):
                edited.add((pool.role, pool.length_class))
        for group in edited:
            self._window(group).restart()
        for group in self._windows.keys() - demands.keys():
            self._windows[group].miss(now)
        for group, demand in demands.items():
            self._window(group).see(now, demand)

    def _window(self, group: Group) -> DemandWindow:
        return self._windows.setdefault(group, DemandWindow(self._policy.scale_in_seconds))

    def _changes(
        self,
        now: float,
        views: Sequence[PoolView],
        staffed: Mapping[Group, GroupCapacity],
        plan: FlipPlan,
        flipping: Mapping[str, Role],
        windows: Mapping[Group, DemandWindow],
    ) -> dict[Group, _Change]:
        members: dict[Group, list[PoolView]] = {}
        for view in views:
            members.setdefault(view.group, []).append(view)
        deficits = {
            group: windows[group].needed_now()
            - staffed.get(group, NO_CAPACITY).num_workers
            - _of_role(plan.expected, group)
            for group in members
            if group in windows
        }
        # Workers away from a group that lacks some and cannot be given new ones: the other role
        # makes its own, and flips them home when these are ready.
        recalled: dict[Group, int] = {
            (OTHER[role], None): min(
                max(deficit - sum(view.room(now) for view in members[role, length]), 0),
                num_away(members[role, length], (role, length), flipping),
            )
            for (role, length), deficit in deficits.items()
            if length is None
        }
        found = {}
        for group, deficit in deficits.items():
            window, capacity = windows[group], staffed.get(group, NO_CAPACITY)
            promised = recalled.get(group, 0)
            lacking = max(deficit + promised, 0)
            if lacking:
                found[group] = self._out(now, members[group], capacity, window, lacking, flipping)
            else:
                promised += _of_role(plan.leaving, group)
                found[group] = self._in(members[group], capacity, window, promised, flipping)
        return found

    def _out(
        self,
        now: float,
        views: Sequence[PoolView],
        capacity: GroupCapacity,
        window: DemandWindow,
        lacking: int,
        flipping: Mapping[str, Role],
    ) -> _Change:
        """A group that lacks workers may still wait for more that can run nowhere than it needs."""
        policy = self._policy
        enough = window.enough(policy.scale_in_seconds, policy.margin)
        beyond = 0 if enough is None else capacity.num_workers + capacity.unschedulable - enough
        leaving = share_in(views, beyond, flipping, up_to="unschedulable")
        bound = max(int(capacity.num_workers * (policy.growth - 1)), policy.growth_pods)
        added = share_out(views, min(lacking, bound), now)
        return _Change(
            num_pools=len(views),
            added=added,
            leaving=leaving,
            reason=window.reason,
            lacking=lacking - sum(added.values()),
        )

    def _in(
        self,
        views: Sequence[PoolView],
        capacity: GroupCapacity,
        window: DemandWindow,
        promised: int,
        flipping: Mapping[str, Role],
    ) -> _Change:
        """`promised`: workers of the group that go to another without being deleted."""
        policy = self._policy
        idle = window.idle_seconds
        if idle is not None and idle >= policy.scale_to_zero_seconds:
            enough: int | None = 0
            reason = Reason("scale to zero", f"idle for {idle:.0f} s")
        else:
            enough = window.enough(policy.scale_in_seconds, policy.margin)
            seconds = f"{policy.scale_in_seconds:g} s"
            reason = Reason("scale in", f"{enough} are enough for the last {seconds}")
        leaving = {}
        there = capacity.num_workers + capacity.unschedulable - promised
        if enough is not None:
            leaving = share_in(views, there - enough, flipping)
        elif there > max(window.needed_now(), 1):
            reason = Reason("window", f"not watched for {policy.scale_in_seconds:g} s yet")
            return _Change(num_pools=len(views), reason=reason)
        return _Change(
            num_pools=len(views),
            leaving=leaving,
            reason=reason if leaving else Reason("enough", str(window.reason)),
        )

    def _action(self, now: float, view: PoolView, change: _Change | None) -> Action:
        pool, replicas = view.state.pool, view.state.replicas
        if view.held is not None and view.replicas == replicas:
            return _hold(view, view.held)
        if change is None:
            change = _Change(reason=NO_DEMAND, num_pools=1)  # its bounds need none
        memory = self._memories[pool.name]
        leaving = change.leaving.get(pool.name)
        wanted = view.replicas + change.added.get(pool.name, 0) - (leaving.count if leaving else 0)
        if leaving and leaving.num_unschedulable and change.num_pools > 1:
            memory.retry_at = now + self._policy.unschedulable_seconds
        if wanted == replicas:
            return _hold(view, _why_held(view, change, now))
        memory.wrote(wanted)
        reason = change.reason
        if leaving and change.lacking:
            given = f"gives {leaving.count} pods back; {change.reason}"
            reason = Reason("unschedulable", given)
        elif pool.name not in change.added and not leaving:
            bounds = f"{pool.min_replicas} to {pool.max_replicas} replicas are allowed"
            reason = Reason("bounds", f"{bounds}, {replicas} were there")
        return Scale(
            pool=pool.name,
            replicas=wanted,
            rule=reason.rule,
            reason=str(reason),
            leaving=tuple(pod.name for pod in leaving.pods) if leaving else (),
        )


def _hold(view: PoolView, reason: Reason) -> Hold:
    return Hold(pool=view.state.pool.name, rule=reason.rule, reason=str(reason))


def _why_held(view: PoolView, change: _Change, now: float) -> Reason:
    why = change.reason
    if not change.lacking:
        return Reason("elsewhere", str(why)) if change.added or change.leaving else why
    if view.num_unschedulable:
        nowhere = f"{view.num_unschedulable} pods can run nowhere"
        return Reason("unschedulable", f"{nowhere}; {why}")
    if now < view.retry_at:
        later = f"tried again in {view.retry_at - now:.0f} s"
        return Reason("unschedulable", f"{later}; {why}")
    return Reason("maximum", f"{change.lacking} more are needed; {why}")


def _of_role(numbers: Mapping[Role, int], group: Group) -> int:
    role, length = group
    return numbers.get(role, 0) if length is None else 0
