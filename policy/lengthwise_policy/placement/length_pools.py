"""Spatial disaggregation by length (LAPS): some prefill workers take short prompts, the others long
ones, and workers change pools as the load does. One that an operator has meant for a length class
stays in that pool.

    member ──the other pool's pressure is higher──▶ moving: takes nothing new
       ▲                                               │             │
       └──────────not empty in time────────────────────┘   its queue is empty
                                                                     ▼
                                                          member of the other pool

Pressures are averaged over the last cool-down, from the last move on: what a single long prompt
does to a queue is no trend.

Invariant: at most one worker moves at a time and one per cool-down; it drains before it moves; no
pool gives its last worker away. A pool that lost its last worker has infinite pressure, and until
one has moved in, the other pool takes all prompts. Each router has pools of its own: they agree
only as far as what they see does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from lengthwise_policy.length_class import LengthClass, length_class
from lengthwise_policy.placement.candidates import find_candidates
from lengthwise_policy.placement.placement import (
    Placement,
    PlacementInput,
    PlacementRequest,
    PlacementRule,
)
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.predicted_ttft import place_soonest
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import STEP_TOKENS, WorkerId

REVIEW_SECONDS = 0.1
"""Between two looks at the pressures: statuses come at most every 0.05 s."""

DIRECTIONS: tuple[tuple[LengthClass, LengthClass], ...] = (("short", "long"), ("long", "short"))
"""Of a move: to the first, from the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A worker on its way into a pool."""

    worker_id: WorkerId
    target: LengthClass
    began_at: float


class LengthPools:
    """A strategy; within a pool the soonest worker is taken."""

    rules: tuple[PlacementRule, ...] = ("length pools",)

    def __init__(self, policy: PlacementPolicy) -> None:
        self._objectives = policy.objectives
        self._rules = policy.pools
        self._pools: dict[WorkerId, LengthClass] = {}
        self.move: Move | None = None
        self._pressures: dict[LengthClass, float] = {}
        self._moved_at: float | None = None  # or since when workers are watched
        self._reviewed_at = -inf

    def members(self, length: LengthClass) -> tuple[WorkerId, ...]:
        """Of one pool, without the one that moves."""
        return tuple(
            sorted(
                name
                for name, pool in self._pools.items()
                if pool == length and name != self._moving
            )
        )

    @property
    def _moving(self) -> WorkerId | None:
        return None if self.move is None else self.move.worker_id

    def __call__(self, asked: PlacementInput) -> Placement:
        self._follow(asked.prefill, asked.now)
        request, candidates = asked.request, find_candidates(asked)
        staying = [view for view in candidates.prefill if view.worker_id != self._moving]
        views = [view for view in staying if self._takes(request, view)]
        candidates = replace(candidates, prefill=views or staying or candidates.prefill)
        return place_soonest("length pools", asked, candidates, self._objectives.tpot_seconds)

    def _takes(self, request: PlacementRequest, view: WorkerView) -> bool:
        """A worker that has cached all but a short rest takes that, whatever its pool."""
        length = length_class(request.residual_tokens(view.worker_id), view.short_tokens)
        if length == self._pools[view.worker_id]:
            return True
        return length == "short" and request.cached_tokens.get(view.worker_id, 0) > 0

    def _follow(self, prefill: Sequence[WorkerView], now: float) -> None:
        """Learns which workers are there, ends a move, and begins one."""
        is_due = now - self._reviewed_at >= REVIEW_SECONDS
        if not is_due and all(view.worker_id in self._pools for view in prefill):
            return
        seconds, self._reviewed_at = now - self._reviewed_at, now
        if self._moved_at is None:
            self._moved_at = now
        views = {view.worker_id: view for view in prefill}
        self._pools = {name: pool for name, pool in self._pools.items() if name in views}
        for worker_id in sorted(views.keys() - self._pools.keys()):
            sizes = list(self._pools.values())
            is_short = sizes.count("short") <= sizes.count("long")
            balanced: LengthClass = "short" if is_short else "long"
            self._pools[worker_id] = views[worker_id].length_class or balanced
        members = self._staying(views)
        self._average(members, seconds)
        if self.move is not None:
            self._end_move(self.move, views.get(self.move.worker_id), now)
        elif now - self._moved_at >= self._rules.cooldown_seconds:
            self._begin_move(members, now)

    def _staying(self, views: dict[WorkerId, WorkerView]) -> dict[LengthClass, list[WorkerView]]:
        members: dict[LengthClass, list[WorkerView]] = {"short": [], "long": []}
        for worker_id, view in views.items():
            if worker_id != self._moving and not view.draining:
                members[self._pools[worker_id]].append(view)
        return members

    def _average(self, members: dict[LengthClass, list[WorkerView]], seconds: float) -> None:
        weight = seconds / (seconds + self._rules.cooldown_seconds) if seconds < inf else 1.0
        for length, views in members.items():
            pressure = self._pressure(length, views)
            last = self._pressures.get(length, pressure)
            if inf in (last, pressure):
                self._pressures[length] = pressure
            else:
                self._pressures[length] = last + weight * (pressure - last)

    def _end_move(self, move: Move, view: WorkerView | None, now: float) -> None:
        if view is None or view.draining:
            self.move = None
        elif not view.tokens_ahead and not view.load_requests:
            self._pools[move.worker_id] = move.target
            self.move = None
        elif now - move.began_at >= self._rules.drain_seconds:
            self.move = None

    def _begin_move(self, members: dict[LengthClass, list[WorkerView]], now: float) -> None:
        pressures = self._pressures
        for target, source in DIRECTIONS:
            bound = (1 + self._rules.tolerance) * max(pressures[source], 0.0)
            movable = [view for view in members[source] if view.length_class is None]
            if len(members[source]) < 2 or not movable:
                continue
            if pressures[target] > bound + self._rules.idle_pressure:
                mover = min(movable, key=lambda view: (view.tokens_ahead, view.worker_id))
                self.move = Move(worker_id=mover.worker_id, target=target, began_at=now)
                self._moved_at = now
                self._pressures = {}
                return

    def _pressure(self, length: LengthClass, views: Sequence[WorkerView]) -> float:
        """The 90th percentile of the pool's workers, by nearest rank; infinite without any."""
        if not views:
            return inf
        ranked = sorted(self._worker_pressure(length, view) for view in views)
        return ranked[-(-9 * len(ranked) // 10) - 1]

    def _worker_pressure(self, length: LengthClass, view: WorkerView) -> float:
        """In units of the class' objective, for its longest prompt that is computed in one step."""
        rules = self._rules
        objective = self._objectives.ttft_seconds(length)
        tokens = view.short_tokens if length == "short" else STEP_TOKENS
        queue = view.long_wait_seconds
        deviation = max(queue + view.cost.prefill_seconds(tokens) - objective, 0.0)
        utilisation = 1.0 if view.running_requests else 0.0
        return (
            rules.queue_weight * queue / objective
            + rules.deviation_weight * deviation / objective
            - rules.utilisation_weight * utilisation
        )
