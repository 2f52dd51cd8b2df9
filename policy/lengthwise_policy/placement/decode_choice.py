"""Which decode worker continues a prompt, chosen for its own sake and before the prefill worker.

In this order: it has room for the prompt beside the predicted peak of what it runs; it
holds the longest part of the prompt already, unless it is so much busier than the least busy one
that its tokens would come late; its next step is the shortest; it has the fewest requests (costs
too small to fit make all steps equal); its id is the lowest.
"""

from collections.abc import Sequence
from math import inf

from lengthwise_policy.placement.placement import PlacementRequest
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.spreading import OtherRouters

MAX_EXTRA_REQUESTS = 8
"""By how many requests a worker may be ahead of the least busy one and still be preferred for what
it holds: of a prompt that all requests share, all would go there otherwise. Routers of SGLang
and AIBrix leave prefixes alone beyond 64 and 8 to 16 requests."""


def choose_partner(
    request: PlacementRequest,
    views: Sequence[WorkerView],
    tpot_seconds: float,
    others: OtherRouters,
) -> WorkerView:
    """Of at least one worker."""
    least = _spread(request, views, others) if others.count else _least_busy(request, views)
    cached_tokens = request.cached_tokens
    if not cached_tokens:
        return least
    held, holder = 0, least
    most_requests = least.load_requests + MAX_EXTRA_REQUESTS
    for view in views:
        cached = cached_tokens.get(view.worker_id, 0)
        if cached < held or not cached:
            continue
        # What all requests share brings those of other routers there too.
        if view.load_requests + others.count * view.outstanding_requests > most_requests:
            continue
        if view.room_tokens <= request.num_tokens - cached:
            continue
        if view.load_requests and view.next_step_seconds > tpot_seconds:
            continue
        if cached > held or _is_less_busy(view, holder):
            held, holder = cached, view
    return holder


def room_left(partner: WorkerView | None) -> str:
    """For the reason of a placement."""
    if partner is None:
        return "one token needs no decode worker"
    return f"{partner.room_tokens} KV slots left"


def _least_busy(request: PlacementRequest, views: Sequence[WorkerView]) -> WorkerView:
    """Of those with room; the one with the most room where none has enough."""
    best: WorkerView | None = None
    best_seconds = inf
    num_tokens = request.num_tokens
    for view in views:
        seconds = view.next_step_seconds
        if seconds > best_seconds or view.room_tokens <= num_tokens:
            continue
        if best is None or _is_less_busy(view, best):
            best, best_seconds = view, seconds
    if best is None:
        return min(views, key=lambda view: (-view.room_tokens, view.worker_id))
    return best


def _spread(
    request: PlacementRequest, views: Sequence[WorkerView], others: OtherRouters
) -> WorkerView:
    """Of those with room, one whose next step is among the shortest."""
    num_tokens = request.num_tokens
    able = [view for view in views if view.room_tokens > num_tokens]
    if not able:
        return _least_busy(request, views)
    own = 1 + sum([view.fresh_requests for view in able])
    cost = able[0].cost
    longer = cost.decode_request_seconds + cost.decode_context_seconds * num_tokens
    if not longer:
        equal = [(view.load_requests, view.worker_id, view) for view in able]
        return others.choose(equal, own)[-1]
    seconds, rank = others.draw([view.next_step_seconds for view in able], own * longer)
    tied = [view for view in able if view.next_step_seconds == seconds]
    return sorted([(view.load_requests, view.worker_id, view) for view in tied])[rank][-1]


def _is_less_busy(view: WorkerView, other: WorkerView) -> bool:
    if view.next_step_seconds != other.next_step_seconds:
        return view.next_step_seconds < other.next_step_seconds
    return (view.load_requests, view.worker_id) < (other.load_requests, other.worker_id)
