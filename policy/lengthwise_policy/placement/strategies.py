"""Which prefill worker computes a prompt and which decode worker continues it: the registry of the
strategies, and the simple ones.

A strategy is chosen by name from `STRATEGIES`. Which workers may be
chosen at all is decided before, in `candidates.py`, alike for all of them; whether a decode worker
does it all by itself in `local_prefill.py`, around them.

Invariant: the same inputs give the same placement, whatever the order of the workers; ties break by
id; random numbers and the clock are arguments.
"""

from collections.abc import Callable, Mapping, Sequence

from lengthwise_policy.placement.candidates import Candidates, find_candidates
from lengthwise_policy.placement.decode_choice import choose_partner, room_left
from lengthwise_policy.placement.length_pools import LengthPools
from lengthwise_policy.placement.local_prefill import LocalPrefill
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRule
from lengthwise_policy.placement.policy import PlacementPolicy, Strategy
from lengthwise_policy.placement.predicted_ttft import PredictedTtft
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Random, WorkerId

# Chooses one of at least one worker.
ChooseWorker = Callable[[Sequence[WorkerView]], WorkerView]

IMBALANCED_RATIO = 1.5
IMBALANCED_TOKENS = 8192
"""Above both, by tokens ahead, a cached prefix is not worth the queue. SGLang's rule is 1.5 times
and 64 requests; these are about 128 tokens each."""


class LeastLoaded:
    """The prefill worker with the fewest tokens ahead, then its partner with the most KV room."""

    rules: tuple[PlacementRule, ...] = ("least loaded",)

    def __call__(self, asked: PlacementInput) -> Placement:
        return _place(
            "least loaded",
            find_candidates(asked),
            lambda views: _few_ahead(asked, views),
            lambda views: _much_room(asked, views),
        )


class LongestPrefix:
    """The prefill worker that has cached most of the prompt, unless far more wait there than at
    the least loaded one; then its partner by the same preference."""

    rules: tuple[PlacementRule, ...] = ("prefix",)

    def __init__(self, tpot_seconds: float) -> None:
        self._tpot_seconds = tpot_seconds

    def __call__(self, asked: PlacementInput) -> Placement:
        def holder(views: Sequence[WorkerView]) -> WorkerView:
            least = _fewest_ahead(views)
            most_ahead = max(
                least.tokens_ahead * IMBALANCED_RATIO, least.tokens_ahead + IMBALANCED_TOKENS
            )
            balanced = [view for view in views if view.tokens_ahead <= most_ahead]
            cached = asked.request.cached_tokens
            longest = max(cached.get(view.worker_id, 0) for view in balanced)
            holders = [view for view in balanced if cached.get(view.worker_id, 0) == longest]
            return _few_ahead(asked, holders)

        return _place(
            "prefix",
            find_candidates(asked),
            holder,
            lambda views: choose_partner(asked.request, views, self._tpot_seconds, asked.others),
        )


class RoundRobin:
    """Each role in the order of ids, going on after the worker chosen last."""

    rules: tuple[PlacementRule, ...] = ("round robin",)

    def __init__(self) -> None:
        self._last_prefill = WorkerId("")
        self._last_decode = WorkerId("")

    def __call__(self, asked: PlacementInput) -> Placement:
        placement = _place(
            "round robin",
            find_candidates(asked),
            lambda views: _next_after(self._last_prefill, views),
            lambda views: _next_after(self._last_decode, views),
        )
        self._last_prefill = placement.prefill or self._last_prefill
        self._last_decode = placement.decode or self._last_decode
        return placement


class PowerOfTwo:
    """Of two workers drawn at random, the less loaded one.

    Routers that share workers and see the same lagging statuses do not all run to the same one.
    """

    rules: tuple[PlacementRule, ...] = ("power of two",)

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, asked: PlacementInput) -> Placement:
        return _place(
            "power of two",
            find_candidates(asked),
            lambda views: _fewest_ahead(self._draw_two(views)),
            lambda views: _most_room(self._draw_two(views)),
        )

    def _draw_two(self, views: Sequence[WorkerView]) -> Sequence[WorkerView]:
        if len(views) <= 2:
            return views
        ordered = sorted(views, key=lambda view: view.worker_id)
        first = ordered.pop(int(self._random() * len(ordered)))
        return first, ordered[int(self._random() * len(ordered))]


# The random numbers are the caller's; only strategies that draw use them.
STRATEGIES: Mapping[str, Callable[[PlacementPolicy, Random], Strategy]] = {
    "least_loaded": lambda policy, random: LeastLoaded(),
    "length_pools": lambda policy, random: LengthPools(policy),
    "power_of_two": lambda policy, random: PowerOfTwo(random),
    "predicted_ttft": lambda policy, random: PredictedTtft(policy.objectives.tpot_seconds),
    "prefix": lambda policy, random: LongestPrefix(policy.objectives.tpot_seconds),
    "round_robin": lambda policy, random: RoundRobin(),
}

DEFAULT_STRATEGY = "predicted_ttft"


def make_strategy(name: str, policy: PlacementPolicy, random: Random) -> Strategy:
    """The strategy of this name (a key of STRATEGIES), with local prefill where it is allowed."""
    strategy = STRATEGIES[name](policy, random)
    return LocalPrefill(strategy, policy.objectives) if policy.local_prefill else strategy


def _place(
    rule: PlacementRule, candidates: Candidates, prefill: ChooseWorker, decode: ChooseWorker
) -> Placement:
    """Chooses the prefill worker first: its kind decides which partners there are."""
    chosen = prefill(candidates.prefill)
    partner = decode(candidates.partners[chosen.kind]) if candidates.partners else None
    rest = f"{chosen.tokens_ahead} tokens ahead, {room_left(partner)}{candidates.note}"
    return Placement(
        prefill=chosen.worker_id,
        decode=None if partner is None else partner.worker_id,
        rule=rule,
        reason=f"{rule}: {rest}",
    )


def _few_ahead(asked: PlacementInput, views: Sequence[WorkerView]) -> WorkerView:
    """The one with the fewest tokens ahead, or nearly so where other routers place too."""
    own = asked.request.num_tokens + sum(view.outstanding_tokens for view in views)
    scored = [(view.tokens_ahead, view.worker_id, view) for view in views]
    return asked.others.choose(scored, own)[-1]


def _much_room(asked: PlacementInput, views: Sequence[WorkerView]) -> WorkerView:
    """Likewise, by free KV."""
    own = asked.request.num_tokens + sum(view.outstanding_tokens for view in views)
    scored = [(-view.room_tokens, view.worker_id, view) for view in views]
    return asked.others.choose(scored, own)[-1]


def _fewest_ahead(views: Sequence[WorkerView]) -> WorkerView:
    return min(views, key=lambda view: (view.tokens_ahead, view.worker_id))


def _most_room(views: Sequence[WorkerView]) -> WorkerView:
    return min(views, key=lambda view: (-view.room_tokens, view.worker_id))


def _next_after(last: WorkerId, views: Sequence[WorkerView]) -> WorkerView:
    """The worker with the lowest id above `last`, else the one with the lowest id of all."""
    return min(views, key=lambda view: (view.worker_id <= last, view.worker_id))
