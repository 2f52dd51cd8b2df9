"""The pair of workers that is predicted to give the first token of a prompt soonest.

    TTFT = queue + prefill + exposed transfer

* queue: half a step of the decode worker, which answers between its steps; then the tokens ahead at
  the prefill worker, as its class of prompts has to wait for them (`WorkerView.short_wait_seconds`,
  `long_wait_seconds`), at its own measured cost
* prefill: the prompt's residual tokens after what the worker has cached, in steps of STEP_TOKENS
* exposed transfer: KV that the decode worker lacks, at the measured rate out of the prefill worker.
  Prompts above LAYERWISE_TOKENS leave layer by layer while they are computed: exposed is only what
  takes longer than computing, and at least the last LAST_PART of the bytes.

The decode worker is chosen for its own sake (`decode_choice.py`), then the prefill worker with
the lowest TTFT; ties break by id. Numbers that do not depend on the request are in the views
already, because every prefill worker is looked at for every request.
"""

from collections.abc import Mapping, Sequence
from heapq import heapreplace, nsmallest
from math import inf

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.placement.candidates import Candidates, find_candidates
from lengthwise_policy.placement.decode_choice import choose_partner, room_left
from lengthwise_policy.placement.outstanding import MAX_REFUSALS
from lengthwise_policy.placement.placement import (
    Candidate,
    Placement,
    PlacementInput,
    PlacementRequest,
    PlacementRule,
)
from lengthwise_policy.placement.worker_view import Kind, WorkerView, wait_seconds
from lengthwise_policy.spreading import OtherRouters
from lengthwise_policy.types import STEP_TOKENS, WorkerId

MAX_CANDIDATES = 8
"""Reported with a placement, to explain it."""

EXPECTED_SHARE = 0.3
"""Of what is expected of other routers: the worker knows what has come, and passes on what it had
better not queue. In fleet/herding.py, three seeds, 8 routers with statuses every 0.05 s have queues
of 1.36 times one router's p99 with 0.5, 1.16 times with 0.3."""

LAYERWISE_TOKENS = 512
"""Longer prompts are pushed layer by layer: the prefill workers' default."""

LAST_PART = 1 / 8
"""The share of the bytes that cannot leave before the last layers are computed: one piece of 4 MiB
is an eighth of 512 tokens with 64 KiB each."""

Partners = Mapping[Kind, WorkerView]

# Predicted TTFT, tokens ahead (equal times spread), prefill worker.
Score = tuple[float, int, WorkerId, WorkerView]


class PredictedTtft:
    """A strategy."""

    rules: tuple[PlacementRule, ...] = ("predicted ttft",)

    def __init__(self, tpot_seconds: float) -> None:
        self._tpot_seconds = tpot_seconds

    def __call__(self, asked: PlacementInput) -> Placement:
        candidates = find_candidates(asked)
        return place_soonest("predicted ttft", asked, candidates, self._tpot_seconds)


def place_soonest(
    rule: PlacementRule, asked: PlacementInput, candidates: Candidates, tpot_seconds: float
) -> Placement:
    """On the soonest of at least one prefill worker, with the best partner for its kind; on one of
    those that are nearly as soon where other routers place too."""
    request, others = asked.request, asked.others
    partners = {
        kind: choose_partner(request, views, tpot_seconds, others)
        for kind, views in candidates.partners.items()
    }
    fresh = sum([view.fresh_tokens for view in candidates.prefill]) if others.count else 0
    scores = _scores(request, candidates.prefill, partners, others, fresh)
    best = nsmallest(MAX_CANDIDATES, scores)
    if others.count:
        soonest = best[0][-1]
        own = candidate(request, soonest, None).prefill_seconds
        own = EXPECTED_SHARE * (own + wait_seconds(soonest.cost, fresh))
        taken = others.choose(scores, own)
        best = [taken, *(score for score in best if score is not taken)][:MAX_CANDIDATES]
    ranked = tuple(candidate(request, view, partners.get(view.kind)) for *_, view in best)
    first, chosen = ranked[0], best[0][-1]
    rest = room_left(partners.get(chosen.kind))
    return Placement(
        prefill=first.prefill,
        decode=first.decode,
        rule=rule,
        reason=(
            f"{rule}: {first.ttft_seconds * 1e3:.1f} ms for {first.residual_tokens} tokens,"
            f" {chosen.tokens_ahead} tokens ahead, {rest}{candidates.note}"
        ),
        candidates=ranked,
        most_tokens_ahead=_most_ahead(request, best) if others.count else None,
    )


def _most_ahead(request: PlacementRequest, best: Sequence[Score]) -> int | None:
    """Behind how many tokens the first worker is still as soon as the next best: behind more, which
    other routers have placed there meanwhile, the request had better be placed anew."""
    if len(best) < 2 or len(request.blame.workers) >= MAX_REFUSALS:
        return None
    seconds, _, _, view = best[0]
    step_seconds = wait_seconds(view.cost, STEP_TOKENS)
    if not step_seconds:
        return None
    spare = max(min(best[1:])[0] - seconds, 0.0)
    return view.tokens_ahead + int(spare / step_seconds * STEP_TOKENS)


def candidate(request: PlacementRequest, view: WorkerView, partner: WorkerView | None) -> Candidate:
    """What is predicted of one pair."""
    new = request.residual_tokens(view.worker_id)
    history = request.num_tokens - new
    steps = -(-new // STEP_TOKENS)
    prefill = view.cost.prefill_seconds(new, history) + (steps - 1) * view.cost.step_seconds
    transfer = 0.0
    queue = view.short_wait_seconds if new <= view.short_tokens else view.long_wait_seconds
    if partner is not None:
        queue += reserve_seconds(partner)
        missing = _missing_tokens(request, partner)
        transfer = missing * view.kv_seconds_per_token
        if request.num_tokens > LAYERWISE_TOKENS:
            transfer = max(transfer - prefill, transfer * LAST_PART)
    return Candidate(
        prefill=view.worker_id,
        decode=partner.worker_id if partner is not None else None,
        residual_tokens=new,
        queue_seconds=queue,
        prefill_seconds=prefill,
        transfer_seconds=transfer,
    )


def reserve_seconds(partner: WorkerView) -> float:
    """What a decode worker takes to answer a reservation: on average half the step it runs."""
    return partner.next_step_seconds / 2 if partner.load_requests else 0.0


def _scores(
    request: PlacementRequest,
    prefill: Sequence[WorkerView],
    partners: Partners,
    others: OtherRouters,
    fresh_tokens: int,
) -> list[Score]:
    """At least of the best, and of all to which another router may go."""
    if len(partners) <= 1:
        missing = sum(_missing_tokens(request, partner) for partner in partners.values())
        reserve = sum(map(reserve_seconds, partners.values()))
        return _scores_of_kind(request, prefill, missing, reserve, others.count, fresh_tokens)
    scores = []
    for kind, partner in partners.items():
        views = [view for view in prefill if view.kind == kind]
        missing, reserve = _missing_tokens(request, partner), reserve_seconds(partner)
        # What is expected of the others depends on workers of all kinds: all are of interest.
        count = None if others.count else 0
        scores += _scores_of_kind(request, views, missing, reserve, count, fresh_tokens)
    return scores


def _missing_tokens(request: PlacementRequest, partner: WorkerView) -> int:
    return max(request.num_tokens - request.cached_tokens.get(partner.worker_id, 0), 0)


def _scores_of_kind(
    request: PlacementRequest,
    prefill: Sequence[WorkerView],
    missing_tokens: int,
    reserve: float,
    num_others: int | None,
    fresh_tokens: int,
) -> list[Score]:
    """The sum of `candidate`'s three terms, spelled out: hundreds of calls would cost more than
    all the arithmetic. A test holds the two equal. Those are left out whose queue alone is above
    the `_Bound`; with `num_others` None none is."""
    cached_tokens = request.cached_tokens
    num_tokens = request.num_tokens
    is_layerwise = num_tokens > LAYERWISE_TOKENS
    scores: list[Score] = []
    looked_at = None if num_others is None else _Bound(num_others, fresh_tokens)
    bound = inf
    new, history, steps = num_tokens, 0, -(-num_tokens // STEP_TOKENS)
    for view in _least_waiting_first(request, prefill) if num_others else prefill:
        worker_id = view.worker_id
        if cached_tokens:
            history = cached_tokens.get(worker_id, 0)
            if history >= num_tokens:
                history = num_tokens - 1
            new = num_tokens - history
            steps = -(-new // STEP_TOKENS)
        wait = view.short_wait_seconds if new <= view.short_tokens else view.long_wait_seconds
        if wait > bound:
            continue
        cost = view.cost
        seconds = (
            steps * cost.step_seconds
            + cost.history_seconds * history
            + (cost.token_seconds + cost.attention_seconds * (new + 2 * history)) * new
        )
        computing = seconds
        transfer = missing_tokens * view.kv_seconds_per_token
        if is_layerwise:
            last_part = transfer * LAST_PART
            transfer -= seconds
            if transfer < last_part:
                transfer = last_part
        seconds += transfer + reserve
        seconds += wait
        scores.append((seconds, view.tokens_ahead, worker_id, view))
        if looked_at is not None:
            bound = looked_at.bound(seconds, computing, cost)
    return scores


class _Bound:
    """Above it are neither the MAX_CANDIDATES best of the workers that were looked at, nor the
    level to which other routers fill them: no higher than if they filled each of these."""

    def __init__(self, num_others: int, fresh_tokens: int) -> None:
        self._weight = num_others * EXPECTED_SHARE
        self._fresh_tokens = fresh_tokens
        self._best = [-inf] * MAX_CANDIDATES  # negative
        self._count = 0
        self._total_seconds = self._expected_seconds = 0.0
        self._soonest = inf

    def bound(self, seconds: float, computing: float, cost: CostModel) -> float:
        """Once another one was looked at, in the order of their queues."""
        if seconds < -self._best[0]:
            heapreplace(self._best, -seconds)
        if not self._weight:
            return -self._best[0]
        self._count += 1
        self._total_seconds += seconds
        if seconds < self._soonest:
            self._soonest = seconds
            own = computing + wait_seconds(cost, self._fresh_tokens)
            self._expected_seconds = self._weight * own
        level = (self._expected_seconds + self._total_seconds) / self._count
        return max(-self._best[0], level)


def _least_waiting_first(
    request: PlacementRequest, prefill: Sequence[WorkerView]
) -> list[WorkerView]:
    num_tokens, cached_tokens = request.num_tokens, request.cached_tokens

    def wait(view: WorkerView) -> float:
        new = num_tokens - cached_tokens.get(view.worker_id, 0)
        return view.short_wait_seconds if new <= view.short_tokens else view.long_wait_seconds

    return sorted(prefill, key=wait)
