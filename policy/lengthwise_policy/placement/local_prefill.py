"""Conditional disaggregation: when a decode worker computes a prompt itself.

It does so in its own steps, beside the tokens of its running requests, in chunks that its token
budget and the TPOT of those requests leave room for. Nothing has to be sent then, and what the
worker has cached need not be computed: that pays for very short residuals, and for turns of a
conversation whose prefix only it holds.

A chunk makes every request that decodes beside it wait, so the time it adds to the step counts once
for each of them: a second is a second, whichever waits. Without this, homogeneous traffic on two
CPU cores had its first tokens in half the time and all others in 1.4 times theirs.

Locally where the first token is predicted to come sooner by more than the others are
delayed in all, and none of them misses its TPOT SLO. Where it is at risk of missing its TTFT SLO at
the prefill workers, and meets it locally, only the SLOs count: the others have time to spare then.
Locally too, whatever it takes, where no prefill worker is there, or where every one failed the
request or is an end of a link that did: of all paths that are left this one needs least of what has
just failed. Then it is the decode worker with the least first token and delay of others. A request
that holds a reservation filled by prefill workers stays with them as long as there are any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import nlargest, nsmallest

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.length_class import length_class
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.candidates import able_to_decode
from lengthwise_policy.placement.placement import (
    Candidate,
    Placement,
    PlacementInput,
    PlacementRequest,
    PlacementRule,
)
from lengthwise_policy.placement.policy import Strategy
from lengthwise_policy.placement.predicted_ttft import MAX_CANDIDATES
from lengthwise_policy.placement.worker_view import (
    WorkerView,
    comparable_cost,
    presumed_costs,
    wait_seconds,
)
from lengthwise_policy.types import STEP_TOKENS, WorkerId

AT_RISK = 0.5
"""Predicted to take more than this share of its TTFT SLO, a request may well miss it: predictions
know nothing of what comes next. In benchmarks/goodput/simulation.py 90 % of requests meet SLOs of
1 s and 150 ms up to 6.4 requests/s with 0.5, 6.2 with 1, 4.9 without this rule."""

# Whether a decode worker lacks room, its seconds, its requests, its id, and what is predicted.
Found = tuple[bool, float, int, WorkerId | None, Candidate]

MAX_HOLDERS = 4
"""How many of the decode workers that hold most of a prompt are looked at for it."""


class LocalPrefill:
    """A strategy around another one, which predicts what prefill workers would do."""

    def __init__(self, remote: Strategy, objectives: Objectives) -> None:
        self.rules: tuple[PlacementRule, ...] = (
            *remote.rules,
            "local prefill",
            "no prefill worker",
        )
        self._remote = remote
        self._objectives = objectives
        self._tpot_seconds = objectives.tpot_seconds

    def __call__(self, asked: PlacementInput) -> Placement:
        request = asked.request
        try:
            placement = self._remote(asked)
        except NoCandidates as lacking:
            fallback = self._without_prefill_workers(asked, allow_failed=True)
            if fallback is None:
                raise
            return replace(fallback, reason=f"{fallback.reason}; {lacking.reason}")
        if request.blame.standing(placement.prefill, placement.decode):
            fallback = self._without_prefill_workers(asked, allow_failed=False)
            return placement if fallback is None else fallback
        if request.reserved_decode is not None or placement.decode is None:
            return placement
        if not placement.candidates:
            return placement  # the rule predicts nothing to compare with
        return self._sooner(asked, placement)

    def _sooner(self, asked: PlacementInput, placement: Placement) -> Placement:
        request = asked.request
        remote = placement.candidates[0]
        chosen = next(view for view in asked.prefill if view.worker_id == placement.prefill)
        partner = next(view for view in asked.decode if view.worker_id == placement.decode)
        found = self._soonest(request, _with_holders(request, [partner], asked.decode), chosen)
        if found is None:
            return placement
        local, delay_seconds, imposed_seconds = found
        note = ""
        if local.ttft_seconds + imposed_seconds >= remote.ttft_seconds:
            note = "; there it would be at risk"
        if note and not self._saves(local, remote, chosen):
            ranked = sorted((*placement.candidates, local), key=lambda one: one.ttft_seconds)
            return replace(placement, candidates=tuple(ranked[:MAX_CANDIDATES]))
        return Placement(
            prefill=None,
            decode=local.decode,
            rule="local prefill",
            reason=(
                f"local prefill: {local.ttft_seconds * 1e3:.1f} ms for {local.residual_tokens}"
                f" tokens and {imposed_seconds * 1e3:.1f} ms imposed on others, at a prefill worker"
                f" {remote.ttft_seconds * 1e3:.1f} ms for {remote.residual_tokens}{note}"
            ),
            candidates=(local, *placement.candidates[: MAX_CANDIDATES - 1]),
            most_requests=_most_requests(asked, local, remote, delay_seconds) if not note else None,
        )

    def _saves(self, local: Candidate, remote: Candidate, prefill: WorkerView) -> bool:
        """Whether the request meets its TTFT SLO locally, and may well miss it otherwise."""
        length = length_class(remote.residual_tokens, prefill.short_tokens)
        objective = self._objectives.ttft_seconds(length)
        is_at_risk = remote.ttft_seconds > AT_RISK * objective
        return is_at_risk and local.ttft_seconds <= min(objective, remote.ttft_seconds)

    def _soonest(
        self, request: PlacementRequest, decode: Sequence[WorkerView], prefill: WorkerView
    ) -> tuple[Candidate, float, float] | None:
        """The best of the decode workers that can do it within the SLO, by how much each of its
        requests comes later, and all of them together."""
        found = []
        for view in decode:
            cost = comparable_cost(view, prefill)
            local = local_candidate(request, view, cost, self._tpot_seconds)
            if local is not None:
                delay = _delay_seconds(request, local, cost)
                found.append((local, delay, view.load_requests * delay))
        return min(
            found, key=lambda one: (one[0].ttft_seconds + one[2], one[0].decode), default=None
        )

    def _without_prefill_workers(
        self, asked: PlacementInput, *, allow_failed: bool
    ) -> Placement | None:
        request = asked.request
        able = able_to_decode(request, asked.decode)
        views = [view for view in able if view.worker_id not in request.blame.workers]
        doubtful = request.blame.doubtful
        sound = [view for view in views if view.worker_id not in doubtful]
        views, note = sound or views, ""
        if not views and allow_failed:
            views = able
            note = "; only decode workers that failed this request are left"
        if not views:
            return None
        costs = presumed_costs(views)
        found: list[Found] = []
        for view in _with_holders(request, _least_loaded(asked, views, costs), views):
            cost = costs[view.worker_id]
            local = local_candidate(request, view, cost, self._tpot_seconds, required=True)
            if local is None:
                continue  # never where required
            lacks_room = view.room_tokens <= local.residual_tokens
            delay = _delay_seconds(request, local, cost)
            seconds = local.ttft_seconds + view.load_requests * delay
            found.append((lacks_room, seconds, view.load_requests, local.decode, local))
        best = _spread(asked, found, costs[views[0].worker_id])
        rest = [local for *_, local in nsmallest(MAX_CANDIDATES, found) if local is not best]
        return Placement(
            prefill=None,
            decode=best.decode,
            rule="no prefill worker",
            reason=(
                f"no prefill worker: {best.ttft_seconds * 1e3:.1f} ms for"
                f" {best.residual_tokens} tokens{note}"
            ),
            candidates=(best, *rest[: MAX_CANDIDATES - 1]),
        )


def _spread(asked: PlacementInput, found: Sequence[Found], cost: CostModel) -> Candidate:
    """The soonest of those with room, or one nearly as soon where other routers place too."""
    lacks_room, *_, soonest = min(found)
    unseen = sum(view.outstanding_tokens for view in asked.decode)
    scored = [each[1:] for each in found if each[0] == lacks_room]
    return asked.others.choose(scored, soonest.prefill_seconds + wait_seconds(cost, unseen))[-1]


def local_candidate(
    request: PlacementRequest,
    view: WorkerView,
    cost: CostModel,
    tpot_seconds: float,
    *,
    required: bool = False,
) -> Candidate | None:
    """What is predicted of a decode worker alone; None where it cannot without breaking the SLO of
    what it runs, or where blocks are lacking, unless it is `required`: then a block in each step.

    A step with a chunk takes as long as one without it and the chunk. The chunks of one prompt add
    up to one chunk of all its tokens, but for cached tokens, which every chunk reads again.
    """
    new = request.residual_tokens(view.worker_id)
    history = request.num_tokens - new
    load = view.load_requests
    step = cost.decode_step_seconds(load, view.context_tokens)
    chunk = STEP_TOKENS - load
    if load:
        if not required and view.room_tokens <= new:
            return None
        # History as long as the whole prompt: no chunk of it has more.
        affordable = cost.tokens_within(tpot_seconds - step, request.num_tokens)
        chunk = int(min(chunk, affordable))
    if chunk < new:
        chunk -= chunk % view.block_size  # chunks begin and end on blocks
    if chunk < 1:
        if not required:
            return None
        chunk = view.block_size
    ahead = view.outstanding_local_tokens
    queue = -(-ahead // chunk) * step + (cost.chunk_seconds(ahead) if ahead else 0.0)
    steps = -(-new // chunk)
    again = (steps - 1) * cost.history_seconds * history
    return Candidate(
        prefill=None,
        decode=view.worker_id,
        residual_tokens=new,
        queue_seconds=queue + (step / 2 if load else 0.0),  # of the step that runs when it comes
        prefill_seconds=steps * step + cost.chunk_seconds(new, history) + again,
        transfer_seconds=0.0,
    )


def _with_holders(
    request: PlacementRequest, chosen: Sequence[WorkerView], views: Sequence[WorkerView]
) -> list[WorkerView]:
    """The chosen, and those of `views` that may take the request and hold most of the prompt."""
    cached = request.cached_tokens
    if not cached:
        return [*chosen]
    others = request.blame.workers.union(view.worker_id for view in chosen)
    holders = [view for view in views if view.worker_id in cached and view.worker_id not in others]
    able = able_to_decode(request, holders)
    most = nlargest(MAX_HOLDERS, [cached[view.worker_id] for view in able])
    ranked = [
        (-cached[view.worker_id], view.next_step_seconds, view.worker_id, view)
        for view in able
        if cached[view.worker_id] >= most[-1]
    ]
    return [*chosen, *(view for *_, view in nsmallest(MAX_HOLDERS, ranked))]


def _least_loaded(
    asked: PlacementInput, views: Sequence[WorkerView], costs: Mapping[WorkerId, CostModel]
) -> list[WorkerView]:
    """Those that are worth a prediction whatever they hold: looking at all of 256 workers closely
    takes as long as the rest of a placement does, several times."""
    num_tokens = asked.request.num_tokens
    ranked = [
        (
            view.room_tokens <= num_tokens,
            view.outstanding_local_tokens * costs[view.worker_id].token_seconds
            + view.next_step_seconds,
            view.load_requests,
            view.worker_id,
            view,
        )
        for view in views
    ]
    return [view for *_, view in nsmallest(MAX_CANDIDATES * (asked.others.count + 1), ranked)]


def _delay_seconds(request: PlacementRequest, local: Candidate, cost: CostModel) -> float:
    """By which each request that the worker has comes later."""
    history = request.num_tokens - local.residual_tokens
    return cost.chunk_seconds(local.residual_tokens, history)


def _most_requests(
    asked: PlacementInput, local: Candidate, remote: Candidate, delay_seconds: float
) -> int | None:
    """Beside how many requests a local prefill is still the better one: beside more, which other
    routers have placed there meanwhile, a prefill worker had better compute the prompt."""
    if not asked.others.count or not delay_seconds:
        return None
    return int((remote.ttft_seconds - local.ttft_seconds) / delay_seconds)
