"""A router: admission and placement that serve, asked with what it knows by then.

Its calls take `call_seconds` each way. What it does not do in virtual time: tokenise, and charge a
tenant for output before the request has ended.
"""

from collections.abc import Callable

from lengthwise_policy.admission.admission import Admission, AdmissionRequest, Admit, Refuse, Wait
from lengthwise_policy.admission.fair_share import Ticket
from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.blame import NO_BLAME, Blame
from lengthwise_policy.placement.outstanding import Placed
from lengthwise_policy.placement.placement import Placement, PlacementRequest
from lengthwise_policy.types import RequestId
from lengthwise_simulator.cluster.journey import Ending, Journey, JourneyAttempt
from lengthwise_simulator.cluster.placer import Placer
from lengthwise_simulator.cluster.spec import ClusterSpec
from lengthwise_simulator.cluster.worker import SimulatedWorker
from lengthwise_simulator.events import EventHeap
from lengthwise_simulator.workload.planned import ArrivingRequest


class SimulatedRouter:
    """One of several that see the same workers."""

    def __init__(
        self, number: int, cluster: ClusterSpec, heap: EventHeap, on_end: Callable[[Journey], None]
    ) -> None:
        self._cluster = cluster
        self._heap = heap
        self._on_end = on_end
        self._admission = Admission(cluster.policies.admission)
        self._placer = Placer(number, cluster, lambda: heap.now)
        self._pictures = self._placer.pictures
        self._waiting: dict[Ticket, Journey] = {}
        self._attempted: dict[Journey, None] = {}  # under way, in their order

    def joined(self, worker: SimulatedWorker) -> None:
        """It is connected from now on; what waits elsewhere may be computed there sooner."""
        self._pictures.joined(worker)
        attempts = [each.attempt for each in self._attempted if each.attempt is not None]
        for attempt in self._pictures.left_for(worker.worker_id, attempts, self._heap.now):
            self._leave(attempt)

    def lost(self, worker: SimulatedWorker) -> None:
        """Its streams have ended; what depends on it is attempted elsewhere, and goes on after the
        tokens that it has."""
        self._pictures.lost(worker)
        blame = Blame.of(worker.worker_id)
        for journey in list(self._attempted):
            attempt = journey.attempt
            if attempt is not None and attempt.needs(worker.worker_id):
                if journey.generated > 1:
                    journey.attempts.progressed()
                self.attempt_failed(attempt, blame, f"{worker.worker_id} was lost", lost=True)

    def arrive(self, request: ArrivingRequest, number: int) -> Journey:
        now = self._heap.now
        journey = Journey(
            request=request,
            number=number,
            router=self,
            arrived_at=now,
            residual_tokens=request.prompt_tokens,
            attempts=self._cluster.policies.attempts(),
        )
        decision = self._admission.ask(self._demand(journey), now)
        if isinstance(decision, Refuse):
            self._end(journey, "refused", decision.reason)
        elif isinstance(decision, Wait):
            self._waiting[decision.ticket] = journey
            if decision.displaced is not None:
                displaced = self._waiting.pop(decision.displaced.ticket)
                self._end(displaced, "refused", decision.displaced.refusal.reason)
        else:
            self._admitted(decision, journey)
        return journey

    def _demand(self, journey: Journey) -> AdmissionRequest:
        request, predicted, objective = journey.request, 0.0, float("inf")
        if self._cluster.policies.admission.shed_factor:
            predicted, objective = self._placer.preview(journey) or (predicted, objective)
        return AdmissionRequest(
            num_tokens=request.prompt_tokens,
            tenant=request.tenant,
            priority=request.priority,
            predicted_ttft_seconds=predicted,
            ttft_objective_seconds=objective,
        )

    def _admitted(self, decision: Admit, journey: Journey) -> None:
        journey.ticket = decision.ticket
        journey.admitted_at = self._heap.now
        self._choose(journey)

    def _choose(self, journey: Journey) -> None:
        """Places it, as soon as there is a path that an attempt may begin on."""
        asked, now = self._placer.ask(journey), self._heap.now
        placement: Placement | None = None
        standing, lacking = None, ""
        try:
            placement = self._placer.place(asked)
            standing = asked.request.blame.standing(placement.prefill, placement.decode)
        except NoCandidates as error:
            exceeded = self._placer.exceeded(asked)
            if exceeded is not None:
                self._end(journey, "refused", exceeded)
                return
            lacking = str(error)
        begin_at = journey.attempts.begin_at(standing, now)
        if begin_at is None:
            self._end(journey, "failed", journey.reason or lacking)
        elif placement is not None and begin_at <= now:
            self._begin(journey, asked.request, placement)
        else:
            self._heap.at(min(begin_at, now + self._cluster.status_seconds), self._choose, journey)

    def _begin(self, journey: Journey, request: PlacementRequest, placement: Placement) -> None:
        computing = placement.prefill if placement.prefill is not None else placement.decode
        assert computing is not None
        residual = request.residual_tokens(computing)
        length = length_class(residual, self._pictures[computing].worker.fit.short_tokens)
        if journey.num_attempts == 0:
            journey.length, journey.residual_tokens = length, residual
        journey.num_attempts += 1
        self._attempted[journey] = None
        journey.prefill, journey.decode = placement.prefill, placement.decode
        journey.rule = placement.rule
        attempt = journey.attempt = JourneyAttempt(
            journey=journey,
            request_id=RequestId(f"{journey.number}/{journey.num_attempts}"),
            num_tokens=journey.num_tokens,
            prefill=self._placer.prefill_worker(placement.prefill),
            decode=self._placer.decode_worker(placement.decode),
            residual_tokens=residual,
            most_tokens_ahead=placement.most_tokens_ahead,
            most_requests=placement.most_requests,
        )
        self._pictures.prefill_placed(attempt, self._heap.now)
        if placement.decode is not None:
            lacking = request.residual_tokens(placement.decode)
            attempt.decode_placed = Placed(
                tokens=lacking, local_tokens=lacking if attempt.is_local else 0
            )
            self._pictures[placement.decode].place(attempt.decode_placed, self._heap.now)
        if attempt.decode is not None:
            self._heap.after(self._cluster.call_seconds, attempt.decode.reserve, attempt)
        else:
            self.reserved(attempt)

    def reserved(self, attempt: JourneyAttempt) -> None:
        """The decode worker holds blocks for it, or needs none."""
        if attempt.is_current and attempt.prefill is not None:
            self._heap.after(self._cluster.call_seconds, attempt.prefill.prefill, attempt)

    def prefilled(self, attempt: JourneyAttempt) -> None:
        """The prefill worker's reply has come, with the first token."""
        if not attempt.is_current:
            return
        self._pictures.prefill_ended(attempt)
        journey = attempt.journey
        self._first_token(journey)
        journey.generated += 1
        if not journey.tokens_left:
            if attempt.decode is not None:
                self._heap.after(self._cluster.call_seconds, attempt.decode.release, attempt)
            self._end(journey, "done")

    def began_to_decode(self, attempt: JourneyAttempt) -> None:
        """The decode worker's first token of a prompt that it computed itself has come."""
        if attempt.is_current and attempt.decode_placed is not None:
            assert attempt.decode is not None
            self._pictures[attempt.decode.worker_id].computed(attempt.decode_placed)
            self._first_token(attempt.journey)

    def finished(self, attempt: JourneyAttempt) -> None:
        """The last token has come."""
        if attempt.is_current:
            attempt.journey.generated = attempt.journey.request.output_tokens
            self._end(attempt.journey, "done")

    def crowded(self, attempt: JourneyAttempt, tokens_ahead: int) -> None:
        """The prefill worker has not queued it, for so many tokens wait there."""
        if attempt.is_current:
            blame = Blame.of(self._pictures.crowded(attempt, tokens_ahead, self._heap.now))
            attempt.journey.attempts.failed(blame, self._heap.now, busy=True)
            self._choose_prefill(attempt)

    def not_local(self, attempt: JourneyAttempt, requests: int) -> None:
        """The decode worker holds blocks for it, and has too many requests to compute it."""
        if attempt.is_current:
            self._pictures.not_local(attempt, requests)
            self._choose_prefill(attempt)

    def _leave(self, attempt: JourneyAttempt) -> None:
        """Another prefill worker fills the blocks that it holds; what comes of the older call is of
        no use."""
        journey, prefill = attempt.journey, attempt.prefill
        assert prefill is not None
        self._heap.after(self._cluster.call_seconds, prefill.cancel, attempt)
        self._pictures.prefill_ended(attempt)
        journey.attempts.failed(Blame.of(prefill.worker_id), self._heap.now, busy=True)
        journey.attempt = attempt.renewed()
        self._choose_prefill(journey.attempt, attempt)

    def _choose_prefill(self, attempt: JourneyAttempt, older: JourneyAttempt | None = None) -> None:
        """Another prefill worker fills the blocks; without one that has not failed it, all begins
        anew. `older`: was to fill them, and may have begun."""
        journey, decode = attempt.journey, attempt.decode
        asked = self._placer.ask(journey, None if decode is None else decode.worker_id)
        placement = self._placer.place_prefill(asked)
        if placement is None:
            self.attempt_failed(attempt, NO_BLAME, "crowded", busy=True)
            return
        journey.prefill, journey.rule = placement.prefill, placement.rule
        attempt.prefill = self._placer.prefill_worker(placement.prefill)
        assert placement.prefill is not None
        attempt.residual_tokens = asked.request.residual_tokens(placement.prefill)
        attempt.most_tokens_ahead = placement.most_tokens_ahead
        self._pictures.prefill_placed(attempt, self._heap.now)
        if older is not None and decode is not None:
            self._heap.after(self._cluster.call_seconds, decode.renew, attempt, older)
        else:
            self.reserved(attempt)

    def attempt_failed(
        self,
        attempt: JourneyAttempt,
        blame: Blame,
        reason: str,
        *,
        lost: bool = False,
        busy: bool = False,
    ) -> None:
        """`lost`, `busy`: as in `Attempts.failed`."""
        if not attempt.is_current:
            return
        journey, now = attempt.journey, self._heap.now
        for release in (
            attempt.decode.release if attempt.decode is not None else None,
            attempt.prefill.cancel if attempt.prefill is not None else None,
        ):
            if release is not None:
                self._heap.after(self._cluster.call_seconds, release, attempt)
        self._close(attempt)
        journey.reason = reason
        if journey.tokens_left <= 0:
            self._end(journey, "done")  # only the news of its end was lost
        elif journey.attempts.failed(blame, now, lost=lost, busy=busy):
            self._choose(journey)
        else:
            self._end(journey, "failed", reason)

    def _first_token(self, journey: Journey) -> None:
        if journey.first_token_at != journey.first_token_at:
            journey.first_token_at = self._heap.now

    def _close(self, attempt: JourneyAttempt) -> None:
        self._pictures.ended(attempt)
        attempt.journey.attempt = None

    def _end(self, journey: Journey, ending: Ending, reason: str = "") -> None:
        if journey.attempt is not None:
            self._close(journey.attempt)
        self._attempted.pop(journey, None)
        journey.ending, journey.reason = ending, reason
        journey.ended_at = self._heap.now
        journey.names.clear()
        journey.short_hashes.clear()
        self._on_end(journey)
        if journey.ticket is None:
            return
        self._admission.charge(journey.ticket, journey.generated)
        for admit in self._admission.finished(journey.ticket, self._heap.now):
            self._admitted(admit, self._waiting.pop(admit.ticket))
