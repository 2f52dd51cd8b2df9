"""A decode worker: the scheduler that serves, and steps that take what the costs say.

What comes during a step is taken when it ends, but reservations during a step with chunks at once,
as the engine's loop does. A step begins when the one before has ended: steps launched ahead, which
save the host's time between them, have no other effect here than that there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.decode.request import Grant, Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.types import RequestId, WorkerId
from lengthwise_simulator.cluster.journey import JourneyAttempt
from lengthwise_simulator.cluster.network import NetworkPort
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cluster.statuses import ReportedState, StatusFeed
from lengthwise_simulator.events import EventHeap

PREDICT_SECONDS = 0.1
"""How often the predicted peak is drawn anew, as the worker's snapshots do."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request that the worker holds."""

    attempt: JourneyAttempt
    num_tokens: int  # known: the prompt and what was generated
    last_length: int  # at which it ends by itself
    is_started: bool  # its first token has come, here or from a prefill worker


class SimulatedDecodeWorker:
    """Holds the requests of its scheduler."""

    role = "decode"

    def __init__(
        self, name: str, group: WorkerGroup, cluster: ClusterSpec, fit: CostFit, heap: EventHeap
    ) -> None:
        self.worker_id = WorkerId(name)
        self.group = group
        self.fit = fit
        self.port = NetworkPort(bytes_per_second=group.link_bytes_per_second)
        policies = cluster.policies
        self.blocks = PrefixCache(
            group.kv_tokens // cluster.block_size, enabled=policies.prefix_caching
        )
        self.scheduler = DecodeScheduler(
            policies.decode,
            policies.objectives,
            self.blocks,
            cluster.block_size,
            Random(f"{cluster.seed}/{name}").random,
        )
        self.busy_seconds = 0.0
        self.num_steps = 0
        self._cluster = cluster
        self._heap = heap
        self._running: DecodeStep | None = None
        self._inbox: list[tuple[Callable[[JourneyAttempt], None], JourneyAttempt]] = []
        self._sequences: dict[RequestId, _Sequence] = {}
        self._predicted = 0
        self._predict_at = 0.0
        self.feed = StatusFeed.of(self, cluster)

    def state(self) -> ReportedState:
        scheduler, now = self.scheduler, self._heap.now
        is_empty = not scheduler.num_running and not scheduler.num_reserved
        if now >= self._predict_at or is_empty:
            self._predicted = scheduler.predicted_blocks()
            self._predict_at = now + PREDICT_SECONDS
        return ReportedState(
            blocks_free=self.blocks.num_free,
            running_requests=scheduler.num_running,
            queued_requests=scheduler.num_queued,
            queued_tokens=scheduler.queued_tokens,
            context_tokens=scheduler.context_tokens,
            blocks_predicted=self._predicted,
        )

    def reserve(self, attempt: JourneyAttempt) -> None:
        """The router's call has come."""
        if self._running is not None and self._running.chunks:
            self.feed.changing(self._heap.now)
            self._reserve(attempt)
        else:
            self._receive(self._reserve, attempt)

    def commit(self, attempt: JourneyAttempt) -> None:
        """The prompt's KV has arrived, with its first token."""
        self._receive(self._commit, attempt)

    def release(self, attempt: JourneyAttempt) -> None:
        """The router has given it up."""
        self._receive(self._release, attempt)

    def _receive(self, action: Callable[[JourneyAttempt], None], attempt: JourneyAttempt) -> None:
        self._inbox.append((action, attempt))
        self._turn()

    def _turn(self) -> None:
        if self._running is not None:
            return
        if self._inbox:
            self.feed.changing(self._heap.now)
            inbox, self._inbox = self._inbox, []
            for action, attempt in inbox:
                action(attempt)
        for grant in self.scheduler.take_granted():
            self._granted(grant)
        step = self.scheduler.next_step(self.fit.model)
        if step is None:
            return
        self._running = step
        if step.preempted:
            self.feed.changing(self._heap.now)
            for request_id in step.preempted:
                self._sequences[request_id].attempt.journey.preemptions += 1
        for chunk in step.chunks:
            journey = self._sequences[chunk.request_id].attempt.journey
            journey.computed_tokens += chunk.num_tokens
            if journey.began_at != journey.began_at:
                journey.began_at = self._heap.now
        sequences = self._sequences
        seconds = self.group.costs.step_seconds(
            [(chunk.num_tokens, chunk.start) for chunk in step.chunks],
            len(step.request_ids),
            sum([sequences[request_id].num_tokens for request_id in step.request_ids]),
        )
        self.busy_seconds += seconds
        self.num_steps += 1
        self._heap.after(seconds, self._ended, step)

    def _ended(self, step: DecodeStep) -> None:
        self._running = None
        block_size = self._cluster.block_size
        for request_id in self.scheduler.emitted(step):
            sequence = self._sequences[request_id]
            sequence.num_tokens += 1
            if (sequence.num_tokens - 1) % block_size == 0:
                self._name_blocks(sequence)
            if sequence.num_tokens == sequence.attempt.num_tokens + 1 and not sequence.is_started:
                sequence.is_started = True
                self._answer(sequence.attempt.journey.router.began_to_decode, sequence.attempt)
            if sequence.num_tokens == sequence.last_length:
                self._finish(sequence)
        self._turn()

    def _answer(self, action: Callable[..., None], *arguments: Any) -> None:
        """The router is told."""
        self._heap.after(self._cluster.call_seconds, action, *arguments)

    def _name_blocks(self, sequence: _Sequence) -> None:
        attempt, block_size = sequence.attempt, self._cluster.block_size
        num_blocks = (sequence.num_tokens - 1) // block_size
        names = attempt.journey.names_of(num_blocks, block_size)
        self.scheduler.named(attempt.request_id, names)

    def _finish(self, sequence: _Sequence) -> None:
        attempt = sequence.attempt
        self.feed.changing(self._heap.now)
        del self._sequences[attempt.request_id]
        self.scheduler.finish(attempt.request_id)
        self._answer(attempt.journey.router.finished, attempt)

    def _reserve(self, attempt: JourneyAttempt) -> None:
        journey = attempt.journey
        num_tokens, block_size = attempt.num_tokens, self._cluster.block_size
        reservation = Reservation(
            request_id=attempt.request_id,
            num_tokens=num_tokens,
            max_new_tokens=journey.request.max_new_tokens - journey.generated,
            deadline_at=inf,
            hashes=journey.names_of(num_tokens // block_size, block_size),
            local=attempt.is_local,
            returning=journey.request.follow_up is not None,
            priority=journey.request.priority,
        )
        try:
            grant = self.scheduler.reserve(reservation)
        except PolicyError as error:
            self._answer(
                journey.router.attempt_failed, attempt, Blame.of(self.worker_id), str(error)
            )
            return
        self._sequences[attempt.request_id] = _Sequence(
            attempt, num_tokens, num_tokens + journey.tokens_left, not attempt.is_local
        )
        if grant is not None:
            self._granted(grant)

    def _granted(self, grant: Grant) -> None:
        if grant.rule == "resumed":
            return
        attempt = self._sequences[grant.request_id].attempt
        attempt.held_tokens = grant.num_cached_tokens
        self._answer(attempt.journey.router.reserved, attempt)

    def _commit(self, attempt: JourneyAttempt) -> None:
        sequence = self._sequences.get(attempt.request_id)
        attempt.is_sending = False
        if sequence is None:  # released meanwhile
            self.scheduler.drained(attempt.request_id)
            return
        self.scheduler.commit(attempt.request_id)
        sequence.num_tokens += 1

    def _release(self, attempt: JourneyAttempt) -> None:
        self.scheduler.release(attempt.request_id, receiving=attempt.is_sending)
        self._sequences.pop(attempt.request_id, None)
