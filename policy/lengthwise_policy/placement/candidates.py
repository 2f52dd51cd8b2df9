"""Which workers may take a request at all: alive, large enough, and compatible with each other.

A prefill and a decode worker are paired only if they serve the same model and lay out KV alike, so
that in a rolling update each generation keeps to itself, and only workers that have every
capability the request needs are candidates, where KV has to come across only those that can
transfer. A worker that just failed the request is one only if there is no pair without it, nor is a
pair whose link failed it; the ends of such a link only if there is no pair with neither of them. A
prefill worker meant for prompts of the other length class is one only if there is no pair with
another one; one that drains never is, unless it holds the request's reservation.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lengthwise_policy.errors import LacksCapability, NoCandidates
from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.placement import PlacementInput, PlacementRequest
from lengthwise_policy.placement.worker_view import Kind, WorkerView
from lengthwise_policy.types import Role, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Prefill workers, each with at least one partner, and their partners.

    `partners` maps a kind to its decode workers; it is empty when the request needs none.
    """

    prefill: Sequence[WorkerView]
    partners: Mapping[Kind, Sequence[WorkerView]]
    note: str  # for the reason of the placement: "" or what was given up to find a pair


def find_candidates(asked: PlacementInput) -> Candidates:
    """Raises NoCandidates with what each side lacks."""
    request, prefill, decode = asked.request, asked.prefill, asked.decode
    num_tokens = request.num_tokens
    needs = request.needs
    able_decode: list[WorkerView] = []
    if request.needs_decode:
        able_prefill = [view for view in prefill if view.paired_tokens >= num_tokens]
        able_decode = [view for view in able_to_decode(request, decode) if view.transfers]
    else:
        able_prefill = [view for view in prefill if view.open_tokens >= num_tokens]
    if needs:
        able_prefill = [view for view in able_prefill if needs <= view.capabilities]
    for prefill_views, decode_views, note in _by_standing(request, able_prefill, able_decode):
        if not request.needs_decode:
            found = Candidates(prefill=prefill_views, partners={}, note=note)
        else:
            paired, partners = _pairs(prefill_views, decode_views)
            found = Candidates(prefill=paired, partners=partners, note=note)
        if found.prefill:
            if request.needs:
                found = replace(found, note=note + _old_workers(request, prefill, decode))
            return _of_length(request, found)
    _check_capabilities(request, "prefill", prefill)
    if request.needs_decode:
        _check_capabilities(request, "decode", decode)
    raise NoCandidates(_what_lacks(request, prefill, decode, able_prefill, able_decode))


Views = Sequence[WorkerView]


def _by_standing(
    request: PlacementRequest, prefill: Views, decode: Views
) -> Iterator[tuple[Views, Views, str]]:
    """Among which workers to look for pairs, those with the least blame first."""
    blame = request.blame
    if not blame:
        yield prefill, decode, ""
        return
    doubtful = blame.doubtful
    fresh_prefill, fresh_decode = _without(blame.workers, prefill), _without(blame.workers, decode)
    sound_prefill, sound_decode = (
        _without(doubtful, fresh_prefill),
        _without(doubtful, fresh_decode),
    )
    yield sound_prefill, sound_decode, ""
    if request.needs_decode:
        yield sound_prefill, fresh_decode, "; KV did not reach this decode worker from another"
        yield fresh_prefill, sound_decode, "; KV of this prefill worker did not reach another"
        for view in fresh_prefill:
            failed = {decode_id for one, decode_id in blame.links if one == view.worker_id}
            yield [view], _without(failed, fresh_decode), "; links of both have failed this request"
        yield fresh_prefill, fresh_decode, "; only links that failed this request are left"
    yield fresh_prefill, decode, "; only decode workers that failed this request are left"
    yield prefill, fresh_decode, "; only prefill workers that failed this request are left"
    yield prefill, decode, "; only workers that failed this request are left"


def _without(worker_ids: Collection[WorkerId], views: Views) -> list[WorkerView]:
    return [view for view in views if view.worker_id not in worker_ids]


def _old_workers(
    request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
) -> str:
    """For the reason: which workers were passed over because they lack a capability."""
    missing = [request.needs - view.capabilities for view in (*prefill, *decode)]
    lacking = [names for names in missing if names]
    if not lacking:
        return ""
    names = ", ".join(sorted(frozenset().union(*lacking)))
    return f"; {len(lacking)} {'worker lacks' if len(lacking) == 1 else 'workers lack'} {names}"


def _check_capabilities(request: PlacementRequest, role: Role, views: Sequence[WorkerView]) -> None:
    """Raises LacksCapability where live workers are there and none has all that is needed."""
    live = [view for view in views if not view.draining]
    if not live or any(request.needs <= view.capabilities for view in live):
        return
    lacking = request.needs.difference(*(view.capabilities for view in live)) or request.needs
    raise LacksCapability(
        f"no {role} worker supports {' with '.join(sorted(lacking))}: {len(live)} are there, of"
        " older versions"
    )


def _of_length(request: PlacementRequest, found: Candidates) -> Candidates:
    """Without the prefill workers that are meant for prompts of the other class, if any is left.

    A prompt's class is that of what the worker would have to compute of it.
    """
    views = found.prefill
    if {view.length_class for view in views} == {None}:
        return found  # as nearly always
    meant = [view for view in views if _is_meant_for(view, request)]
    num_others = len(views) - len(meant)
    if not num_others:
        return found
    if not meant:
        return replace(found, note=f"{found.note}; only prefill workers for other lengths are left")
    note = f"; {num_others} prefill worker{'s' * (num_others > 1)} for other lengths passed over"
    return replace(found, prefill=meant, note=found.note + note)


def _is_meant_for(view: WorkerView, request: PlacementRequest) -> bool:
    if view.length_class is None:
        return True
    residual_tokens = request.residual_tokens(view.worker_id)
    return view.length_class == length_class(residual_tokens, view.short_tokens)


def able_to_decode(request: PlacementRequest, decode: Sequence[WorkerView]) -> list[WorkerView]:
    """Those that can hold the request to its end; only the one that holds its reservation, if any
    does."""
    if request.reserved_decode is not None:
        return [view for view in decode if view.worker_id == request.reserved_decode]
    kv_tokens, needs = request.kv_tokens, request.needs
    able = [view for view in decode if view.open_tokens >= kv_tokens]
    return [view for view in able if needs <= view.capabilities] if needs else able


def _pairs(
    prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
) -> tuple[Sequence[WorkerView], dict[Kind, Sequence[WorkerView]]]:
    """The prefill workers that have partners, and the partners of each kind."""
    kinds = {view.kind for view in decode}
    partners: dict[Kind, Sequence[WorkerView]]
    if len(kinds) == 1:
        partners = {kinds.pop(): decode}  # as nearly always: nothing to sort
    else:
        partners = {kind: [view for view in decode if view.kind == kind] for kind in kinds}
    return [view for view in prefill if view.kind in partners], partners


def _what_lacks(
    request: PlacementRequest,
    prefill: Sequence[WorkerView],
    decode: Sequence[WorkerView],
    able_prefill: Sequence[WorkerView],
    able_decode: Sequence[WorkerView],
) -> str:
    if not able_prefill:
        return f"no prefill worker {_why_unable(prefill, request.num_tokens)}"
    if able_decode:
        return (
            "no prefill worker has a decode worker of the same model and KV layout: prefill "
            f"workers are {_names(able_prefill)}, decode workers are {_names(able_decode)}"
        )
    if request.reserved_decode is not None:
        return f"decode worker {request.reserved_decode!r}, which holds the reservation, is gone"
    return f"no decode worker {_why_unable(decode, request.kv_tokens)}"


def _why_unable(views: Sequence[WorkerView], num_tokens: int) -> str:
    draining = sum(view.draining for view in views)
    cut_off = sum(not view.transfers and not view.draining for view in views)
    return (
        f"for {num_tokens} tokens: of {len(views)} known, {draining} drain"
        f"{f', {cut_off} cannot transfer KV' * bool(cut_off)} and"
        f" {len(views) - draining - cut_off} are too small"
    )


def _names(views: Sequence[WorkerView]) -> str:
    """The kinds present, `model/layout` each."""
    return ", ".join(sorted({view.kind for view in views}))
