"""Which prefill worker computes a prompt and which decode worker continues it: the strategies.

Every strategy is one function type over snapshots, chosen by name from `STRATEGIES`. Who may be
chosen at all is decided before, in `candidates.py`, alike for all of them.

The rule: the same inputs give the same placement, whatever the order of the workers; ties break by
id; random numbers are an argument.
"""

from collections.abc import Callable, Mapping, Sequence

from lengthwise_policy.candidates import Candidates, find_candidates, kind_of
from lengthwise_policy.types import Placement, PlacementRequest, WorkerId, WorkerView

# The request, the prefill workers, the decode workers. Raises NoCandidates.
Strategy = Callable[[PlacementRequest, Sequence[WorkerView], Sequence[WorkerView]], Placement]

# Gives numbers in [0, 1).
Random = Callable[[], float]

# Chooses one of at least one worker.
Choice = Callable[[Sequence[WorkerView]], WorkerView]


def tokens_ahead(view: WorkerView) -> int:
    """Prompt tokens that a prefill worker computes before a request that is placed there now."""
    return view.queued_tokens + view.outstanding_tokens


def free_tokens(view: WorkerView) -> int:
    """KV slots that a decode worker has left; below zero, that many are waited for already."""
    return view.blocks_free * view.block_size - view.queued_tokens - view.outstanding_tokens


def least_loaded(
    request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
) -> Placement:
    """The prefill worker with the fewest tokens ahead, then its partner with the most KV room."""
    candidates = find_candidates(request, prefill, decode)
    return _place("least loaded", candidates, _fewest_ahead, _most_free)


class RoundRobin:
    """Each role in the order of ids, going on after the worker chosen last."""

    def __init__(self) -> None:
        self._last_prefill = WorkerId("")
        self._last_decode = WorkerId("")

    def __call__(
        self, request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
    ) -> Placement:
        placement = _place(
            "round robin",
            find_candidates(request, prefill, decode),
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

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(
        self, request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
    ) -> Placement:
        return _place(
            "power of two",
            find_candidates(request, prefill, decode),
            lambda views: _fewest_ahead(self._draw_two(views)),
            lambda views: _most_free(self._draw_two(views)),
        )

    def _draw_two(self, views: Sequence[WorkerView]) -> Sequence[WorkerView]:
        if len(views) <= 2:
            return views
        ordered = sorted(views, key=lambda view: view.worker_id)
        first = ordered.pop(int(self._random() * len(ordered)))
        return first, ordered[int(self._random() * len(ordered))]


# The random numbers are the caller's; only strategies that draw use them.
STRATEGIES: Mapping[str, Callable[[Random], Strategy]] = {
    "least_loaded": lambda random: least_loaded,
    "power_of_two": PowerOfTwo,
    "round_robin": lambda random: RoundRobin(),
}

DEFAULT_STRATEGY = "least_loaded"


def _place(rule: str, candidates: Candidates, prefill: Choice, decode: Choice) -> Placement:
    """Chooses the prefill worker first: its kind decides who the partners are."""
    chosen = prefill(candidates.prefill)
    reason = f"{rule}: {tokens_ahead(chosen)} tokens ahead"
    if not candidates.partners:
        return Placement(
            prefill=chosen.worker_id,
            decode=None,
            reason=f"{reason}, one token needs no decode worker{candidates.note}",
        )
    partner = decode(candidates.partners[kind_of(chosen)])
    return Placement(
        prefill=chosen.worker_id,
        decode=partner.worker_id,
        reason=f"{reason}, {free_tokens(partner)} KV slots left{candidates.note}",
    )


def _fewest_ahead(views: Sequence[WorkerView]) -> WorkerView:
    return min(views, key=lambda view: (tokens_ahead(view), view.worker_id))


def _most_free(views: Sequence[WorkerView]) -> WorkerView:
    return min(views, key=lambda view: (-free_tokens(view), view.worker_id))


def _next_after(last: WorkerId, views: Sequence[WorkerView]) -> WorkerView:
    """The worker with the lowest id above `last`, else the one with the lowest id of all."""
    return min(views, key=lambda view: (view.worker_id <= last, view.worker_id))
