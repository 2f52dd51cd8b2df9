"""A decode worker: the scheduler that serves, and steps that take what the costs say.

What comes during a step is taken when it ends, but reservations during a step with chunks at once,
as the engine's loop does. A step begins when the one before has ended: steps launched ahead, which
save the host's time between them, have no other effect here than that there is none.
"""

from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.decode.request import Grant, Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.placement.blame import NO_BLAME
from lengthwise_policy.spreading import exceeds
from lengthwise_policy.types import RequestId
from lengthwise_simulator.cluster.journey import JourneyAttempt
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cluster.statuses import ReportedState
from lengthwise_simulator.cluster.worker import SimulatedWorker
from lengthwise_simulator.events import EventHeap

PREDICT_SECONDS = 0.1
"""How often the predicted peak is drawn anew, as the worker's snapshots do."""

SEED = 1
"""Of the scheduler's predictions, as in every worker."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request that the worker holds."""

    attempt: JourneyAttempt
    num_tokens: int  # known: the prompt and what was generated
    last_length: int  # at which it ends by itself
    is_started: bool  # its first token has come, here or from a prefill worker
    preempted_at: float = 0.0


class SimulatedDecodeWorker(SimulatedWorker):
    """Holds the requests of its scheduler."""

    role = "decode"

    def __init__(
        self, name: str, group: WorkerGroup, cluster: ClusterSpec, fit: CostFit, heap: EventHeap
    ) -> None:
        super().__init__(name, group, cluster, fit, heap)
        policies = cluster.policies
        self.scheduler = DecodeScheduler(
            policies.decode,
            policies.objectives,
            self.blocks,
            cluster.block_size,
            Random(SEED).random,
        )
        self.generated_tokens = 0
        self._running: DecodeStep | None = None
        self._sequences: dict[RequestId, _Sequence] = {}
        self._predicted = 0
        self._predict_at = 0.0
        self._frozen: ReportedState | None = None

    def state(self) -> ReportedState:
        """What reservations during a step change is shown at its end."""
        if self._frozen is not None:
            return self._frozen
        scheduler = self.scheduler
        return ReportedState(
            blocks_free=self.blocks.num_free,
            running_requests=scheduler.num_running,
            queued_requests=scheduler.num_queued,
            queued_tokens=scheduler.queued_tokens,
            context_tokens=scheduler.context_tokens,
            blocks_predicted=self._predicted,
            draining=self.is_draining,
        )

    @property
    def num_requests(self) -> int:
        return len(self._sequences) + len(self._inbox)

    def reserve(self, attempt: JourneyAttempt) -> None:
        """The router's call has come."""
        if self.is_gone or not attempt.is_current:
            return
        if self._running is not None and self._running.chunks:
            self.feed.touch(self._heap.now)
            if self._frozen is None:
                self._frozen = self.state()
            self._reserve(attempt)
        else:
            self._receive(self._reserve, attempt)

    def renew(self, attempt: JourneyAttempt, older: JourneyAttempt) -> None:
        """Its blocks, which `older` had, are there to be filled anew once nothing of that is under
        way."""
        sequence = self._sequences.get(attempt.request_id)
        if self.is_gone or not attempt.is_current or sequence is None:
            return
        router = attempt.journey.router
        if older.has_arrived:  # too late: it decodes
            self._answer(partial(router.attempt_failed, busy=False), attempt, NO_BLAME, "stale")
            return
        sequence.attempt = attempt
        self._heap.at(older.sent_until, self._answer, router.reserved, attempt)

    def commit(self, attempt: JourneyAttempt) -> None:
        """The prompt's KV has arrived, with its first token."""
        self._receive(self._commit, attempt)

    def release(self, attempt: JourneyAttempt) -> None:
        """The router has given it up."""
        self._receive(self._release, attempt)

    def link_lost(self, attempt: JourneyAttempt) -> None:
        """Nothing more arrives of it."""
        self._receive(self._drain, attempt)

    def fail(self) -> None:
        """What it has generated stays generated: routers have it."""
        self.is_gone = True
        for sequence in self._sequences.values():
            journey = sequence.attempt.journey
            if sequence.is_started and sequence.attempt.is_current:
                generated = sequence.num_tokens - journey.request.prompt_tokens
                journey.generated = max(journey.generated, generated)

    def _attempt(self, request_id: RequestId) -> JourneyAttempt:
        return self._sequences[request_id].attempt

    def _turn(self) -> None:
        if self._running is not None or self.is_gone:
            return
        now = self._heap.now
        self.feed.touch(now)
        has_taken = self._take_inbox()
        self._grant()
        step = self.scheduler.next_step(self.fit.model)
        self._predict(now)
        if step is None:
            if has_taken:
                self.feed.turned(now)
            self._end_if_idle()
            return
        self._running = step
        sequences = self._sequences
        for request_id in step.preempted:
            sequences[request_id].preempted_at = now
            sequences[request_id].attempt.journey.preemptions += 1
        context = sum([sequences[request_id].num_tokens for request_id in step.request_ids])
        self._begin_step(step.chunks, len(step.request_ids), context, self._ended, step)

    def _predict(self, now: float) -> None:
        scheduler = self.scheduler
        if now >= self._predict_at or not (scheduler.num_running or scheduler.num_reserved):
            self._predicted = scheduler.predicted_blocks()
            self._predict_at = now + PREDICT_SECONDS

    def _grant(self) -> None:
        for grant in self.scheduler.take_granted():
            self._granted(grant)

    def _ended(self, step: DecodeStep) -> None:
        if self.is_gone:
            return
        now = self._heap.now
        self.feed.touch(now)
        self._running = self._frozen = None
        block_size = self._cluster.block_size
        emitted = self.scheduler.emitted(step)
        self.generated_tokens += len(emitted)
        for request_id in emitted:
            sequence = self._sequences[request_id]
            sequence.num_tokens += 1
            if (sequence.num_tokens - 1) % block_size == 0:
                self._name_blocks(sequence)
            if not sequence.is_started and sequence.num_tokens == sequence.attempt.num_tokens + 1:
                sequence.is_started = True
                self._answer(sequence.attempt.journey.router.began_to_decode, sequence.attempt)
            if sequence.num_tokens == sequence.last_length:
                self._finish(sequence)
        self._grant()
        self._predict(now)
        self.feed.turned(now)
        self._turn()

    def _name_blocks(self, sequence: _Sequence) -> None:
        attempt, block_size = sequence.attempt, self._cluster.block_size
        num_blocks = (sequence.num_tokens - 1) // block_size
        names = attempt.journey.names_from(num_blocks, block_size)
        self.scheduler.named(attempt.request_id, names)

    def _finish(self, sequence: _Sequence) -> None:
        attempt = sequence.attempt
        del self._sequences[attempt.request_id]
        self.scheduler.finish(attempt.request_id)
        self._answer(attempt.journey.router.finished, attempt)

    def _reserve(self, attempt: JourneyAttempt) -> None:
        if self.is_draining:
            self._refuse(attempt, PolicyError(f"{self.worker_id} is draining"))
            return
        journey = attempt.journey
        is_local = attempt.is_local and not exceeds(len(self._sequences), attempt.most_requests)
        num_tokens, block_size = attempt.num_tokens, self._cluster.block_size
        reservation = Reservation(
            request_id=attempt.request_id,
            num_tokens=num_tokens,
            max_new_tokens=journey.request.max_new_tokens - journey.generated,
            deadline_at=inf,
            hashes=journey.names_of(num_tokens // block_size, block_size),
            local=is_local,
            returning=journey.request.follow_up is not None,
            priority=journey.request.priority,
        )
        try:
            grant = self.scheduler.reserve(reservation)
        except PolicyError as error:
            self._refuse(attempt, error)
            return
        self._sequences[attempt.request_id] = _Sequence(
            attempt, num_tokens, num_tokens + journey.tokens_left, not is_local
        )
        if grant is not None:
            self._granted(grant)

    def _granted(self, grant: Grant) -> None:
        sequence = self._sequences[grant.request_id]
        attempt, journey = sequence.attempt, sequence.attempt.journey
        if grant.rule == "resumed":
            paused = self._heap.now - sequence.preempted_at
            journey.paused_seconds = max(journey.paused_seconds, paused)
            return
        self.feed.changed(self._heap.now)
        attempt.held_tokens = grant.num_cached_tokens
        if attempt.is_local and sequence.is_started:
            self._answer(journey.router.not_local, attempt, len(self._sequences))
        else:
            self._answer(journey.router.reserved, attempt)

    def _commit(self, attempt: JourneyAttempt) -> None:
        sequence = self._sequences.get(attempt.request_id)
        self._drain(attempt)
        if sequence is None or sequence.attempt is not attempt:  # released or renewed meanwhile
            return
        attempt.has_arrived = True
        self.scheduler.commit(attempt.request_id)
        sequence.num_tokens += 1

    def _drain(self, attempt: JourneyAttempt) -> None:
        attempt.is_sending = False
        self.scheduler.drained(attempt.request_id)

    def _release(self, attempt: JourneyAttempt) -> None:
        self.scheduler.release(attempt.request_id, receiving=attempt.is_sending)
        self._sequences.pop(attempt.request_id, None)
