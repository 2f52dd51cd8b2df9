"""A prefill worker: the scheduler that serves, and steps that take what the costs say."""

from math import inf

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.cost.transfer_rate import TransferRate
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.spreading import exceeds
from lengthwise_policy.types import PromptChunk, RequestId, WorkerId
from lengthwise_simulator.cluster.journey import JourneyAttempt
from lengthwise_simulator.cluster.network import push_kv
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cluster.statuses import ReportedState
from lengthwise_simulator.cluster.worker import SimulatedWorker
from lengthwise_simulator.events import EventHeap


class SimulatedPrefillWorker(SimulatedWorker):
    """Computes prompts and sends their KV."""

    role = "prefill"

    def __init__(
        self, name: str, group: WorkerGroup, cluster: ClusterSpec, fit: CostFit, heap: EventHeap
    ) -> None:
        super().__init__(name, group, cluster, fit, heap)
        policies = cluster.policies
        self.scheduler = PrefillScheduler(
            policies.prefill, policies.objectives, self.blocks, cluster.block_size
        )
        self._rate = TransferRate()
        self._running: PrefillBatch | None = None
        self._attempts: dict[RequestId, JourneyAttempt] = {}
        self._links: dict[WorkerId, float] = {}  # when each is open
        self._num_wakes = 0

    def state(self) -> ReportedState:
        short, long = (self.scheduler.queue_length(name) for name in ("short", "long"))
        return ReportedState(
            blocks_free=self.blocks.num_free,
            running_requests=len(self._running.chunks) if self._running is not None else 0,
            queued_requests=short.requests + long.requests,
            queued_tokens=short.tokens + long.tokens,
            queued_short_tokens=short.tokens,
            kv_bytes_per_second=self._rate.bytes_per_second,
            draining=self.is_draining,
        )

    @property
    def num_requests(self) -> int:
        return len(self._attempts) + len(self._inbox)

    def prefill(self, attempt: JourneyAttempt) -> None:
        """The router's call has come; nothing is computed before the link is there, which the first
        request for it opens with a call."""
        if exceeds(self._tokens_ahead, attempt.most_tokens_ahead):
            self._answer(attempt.journey.router.crowded, attempt, self._tokens_ahead)
            return
        now = attempt.prefill_called_at = self._heap.now
        if attempt.decode is not None:
            opened = now + 2 * self._cluster.call_seconds
            open_at = self._links.setdefault(attempt.decode.worker_id, opened)
            if open_at > now:
                self._heap.at(open_at, self._receive, self._enqueue, attempt)
                return
        self._receive(self._enqueue, attempt)

    @property
    def _tokens_ahead(self) -> int:
        """Of prompts that are queued, or have just come."""
        queued = sum(self.scheduler.queue_length(name).tokens for name in LENGTH_CLASSES)
        come = (each for action, each in self._inbox if action == self._enqueue)
        return queued + sum(each.residual_tokens for each in come)

    def cancel(self, attempt: JourneyAttempt) -> None:
        """The router has given it up: its blocks are free once nothing of it is being sent."""
        self._heap.at(attempt.sent_until, self._receive, self._give_up, attempt)

    def fail(self) -> None:
        self.is_gone = True
        for attempt in self._attempts.values():
            if attempt.decode is not None:
                attempt.decode.link_lost(attempt)

    def _enqueue(self, attempt: JourneyAttempt) -> None:
        if not attempt.is_current:
            return  # cancelled meanwhile
        if self.is_draining:
            self._refuse(attempt, PolicyError(f"{self.worker_id} is draining"))
            return
        journey = attempt.journey
        block_size = self._cluster.block_size
        job = PrefillJob(
            request_id=attempt.request_id,
            num_tokens=attempt.num_tokens,
            arrived_at=attempt.prefill_called_at,
            deadline_at=inf,
            hashes=tuple(journey.names_of(attempt.num_tokens // block_size, block_size)),
            priority=journey.request.priority,
            returning=journey.request.follow_up is not None,
        )
        try:
            self.scheduler.enqueue(job)
        except PolicyError as error:
            self._refuse(attempt, error)
        else:
            attempt.is_sending = attempt.decode is not None
            self._attempts[job.request_id] = attempt

    def _attempt(self, request_id: RequestId) -> JourneyAttempt:
        return self._attempts[request_id]

    def _turn(self) -> None:
        if self._running is not None or self.is_gone:
            return
        now = self._heap.now
        self.feed.touch(now)
        has_taken = self._take_inbox()
        batch = self.scheduler.next_batch(now, self.fit.model, self.fit.short_tokens)
        self._num_wakes += 1
        if batch is not None:
            self._running = batch
            self._begin_step(batch.chunks, 0, 0, self._ended, batch, now)
            return
        if self.scheduler.wake_at is not None:
            self._heap.at(self.scheduler.wake_at, self._woken, self._num_wakes)
        if has_taken:
            self.feed.turned(now)
        self._end_if_idle()

    def _woken(self, number: int) -> None:
        if number == self._num_wakes and not self.is_gone:
            self._turn()

    def _ended(self, batch: PrefillBatch, began_at: float) -> None:
        if self.is_gone:
            return
        now = self._heap.now
        self.feed.touch(now)
        self._running = None
        complete = set(self.scheduler.computed(batch))
        self.feed.turned(now)
        for chunk in batch.chunks:
            attempt = self._attempts.get(chunk.request_id)
            if attempt is None:
                continue
            if attempt.decode is not None:
                self._push(attempt, chunk, began_at)
            if chunk.request_id in complete:
                self._complete(attempt)
        self._turn()

    def _complete(self, attempt: JourneyAttempt) -> None:
        self._answer(attempt.journey.router.prefilled, attempt)
        if attempt.decode is None:
            self._heap.after(0.0, self._receive, self._release, attempt)
        else:
            self._heap.at(attempt.sent_until, self._sent, attempt)

    def _sent(self, attempt: JourneyAttempt) -> None:
        """All of its KV has arrived."""
        assert attempt.decode is not None
        if self.is_gone:
            return
        self._answer(attempt.decode.commit, attempt)
        self._heap.after(2 * self._cluster.call_seconds, self._committed, attempt)
        self._receive(self._release, attempt)

    def _committed(self, attempt: JourneyAttempt) -> None:
        """The decode worker has said so: from the last piece on it measures the link."""
        now = self._heap.now
        if attempt.late_bytes and not self.is_gone:
            self.feed.touch(now)
            self._rate.moved(attempt.late_bytes, now - attempt.last_piece_at)

    def _give_up(self, attempt: JourneyAttempt) -> None:
        self._release(attempt)
        if attempt.decode is not None and attempt.is_sending:
            self._answer(attempt.decode.link_lost, attempt)  # nothing more comes of it

    def _release(self, attempt: JourneyAttempt) -> None:
        self.scheduler.release(attempt.request_id)
        self._attempts.pop(attempt.request_id, None)

    def _push(self, attempt: JourneyAttempt, chunk: PromptChunk, began_at: float) -> None:
        """What the batch has computed of a prompt, and before its first chunk what was cached."""
        policies, now = self._cluster.policies, self._heap.now
        cached = self.scheduler.num_cached_tokens(chunk.request_id)
        if chunk.start == cached:
            num_bytes = self._bytes(attempt, 0, cached)
            self._send(attempt, num_bytes, num_bytes, began_at, began_at)
        num_bytes = self._bytes(attempt, chunk.start, chunk.start + chunk.num_tokens)
        if attempt.num_tokens - cached > policies.layerwise_tokens:
            last = min(num_bytes, policies.piece_bytes)
            share = last / num_bytes if num_bytes else 1.0
            self._send(attempt, num_bytes, last, began_at + share * (now - began_at), now)
        else:
            self._send(attempt, num_bytes, num_bytes, now, now)

    def _send(
        self,
        attempt: JourneyAttempt,
        num_bytes: int,
        last_bytes: int,
        ready_from: float,
        ready_until: float,
    ) -> None:
        """A piece moves once its announcement has come."""
        assert attempt.decode is not None
        if not num_bytes:
            return
        announcing = self._cluster.call_seconds
        arrived_at, attempt.late_bytes = push_kv(
            self.port,
            attempt.decode.port,
            num_bytes=num_bytes,
            last_bytes=last_bytes,
            ready_from=ready_from + announcing,
            ready_until=ready_until + announcing,
        )
        attempt.last_piece_at = ready_until
        attempt.sent_until = max(attempt.sent_until, arrived_at)

    def _bytes(self, attempt: JourneyAttempt, start: int, end: int) -> int:
        """Of whole blocks that the decode worker lacks."""
        size = self._cluster.block_size
        first = max(start, attempt.held_tokens) // size
        return max(-(-end // size) - first, 0) * size * self.group.kv_bytes_per_token
