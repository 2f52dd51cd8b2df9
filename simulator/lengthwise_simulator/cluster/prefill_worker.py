"""A prefill worker: the scheduler that serves, and steps that take what the costs say."""

from math import inf

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.cost.transfer_rate import TransferRate
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId, WorkerId
from lengthwise_simulator.cluster.journey import JourneyAttempt
from lengthwise_simulator.cluster.network import NetworkPort, push_kv
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cluster.statuses import ReportedState, StatusFeed
from lengthwise_simulator.events import EventHeap


class SimulatedPrefillWorker:
    """Takes what has come between its steps, as the engine's loop does."""

    role = "prefill"

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
        self.scheduler = PrefillScheduler(
            policies.prefill, policies.objectives, self.blocks, cluster.block_size
        )
        self.busy_seconds = 0.0
        self.num_steps = 0
        self._cluster = cluster
        self._heap = heap
        self._rate = TransferRate()
        self._running: PrefillBatch | None = None
        self._inbox: list[JourneyAttempt] = []
        self._attempts: dict[RequestId, JourneyAttempt] = {}
        self._num_wakes = 0
        self.feed = StatusFeed.of(self, cluster)

    def state(self) -> ReportedState:
        short, long = (self.scheduler.queue_length(name) for name in ("short", "long"))
        return ReportedState(
            blocks_free=self.blocks.num_free,
            running_requests=len(self._running.chunks) if self._running is not None else 0,
            queued_requests=short.requests + long.requests,
            queued_tokens=short.tokens + long.tokens,
            queued_short_tokens=short.tokens,
            kv_bytes_per_second=self._rate.bytes_per_second,
        )

    def prefill(self, attempt: JourneyAttempt) -> None:
        """The router's call has come."""
        self.feed.changing(self._heap.now)
        self._inbox.append(attempt)
        self._turn()

    def _enqueue(self, attempt: JourneyAttempt) -> None:
        journey = attempt.journey
        block_size = self._cluster.block_size
        job = PrefillJob(
            request_id=attempt.request_id,
            num_tokens=attempt.num_tokens,
            arrived_at=self._heap.now,
            deadline_at=inf,
            hashes=tuple(journey.names_of(attempt.num_tokens // block_size, block_size)),
            priority=journey.request.priority,
            returning=journey.request.follow_up is not None,
        )
        try:
            self.scheduler.enqueue(job)
        except PolicyError as error:
            self._heap.after(
                self._cluster.call_seconds,
                journey.router.attempt_failed,
                attempt,
                Blame.of(self.worker_id),
                str(error),
            )
        else:
            attempt.is_sending = attempt.decode is not None
            self._attempts[job.request_id] = attempt

    def _turn(self) -> None:
        if self._running is not None:
            return
        inbox, self._inbox = self._inbox, []
        for attempt in inbox:
            self._enqueue(attempt)
        now = self._heap.now
        batch = self.scheduler.next_batch(now, self.fit.model, self.fit.short_tokens)
        self._num_wakes += 1
        if batch is None:
            if self.scheduler.wake_at is not None:
                self._heap.at(self.scheduler.wake_at, self._woken, self._num_wakes)
            return
        self._running = batch
        chunks = [(chunk.num_tokens, chunk.start) for chunk in batch.chunks]
        seconds = self.group.costs.step_seconds(chunks, 0, 0)
        self.busy_seconds += seconds
        self.num_steps += 1
        for chunk in batch.chunks:
            journey = self._attempts[chunk.request_id].journey
            journey.computed_tokens += chunk.num_tokens
            if journey.began_at != journey.began_at:
                journey.began_at = now
        self._heap.after(seconds, self._ended, batch, now)

    def _woken(self, number: int) -> None:
        if number == self._num_wakes:
            self._turn()

    def _ended(self, batch: PrefillBatch, began_at: float) -> None:
        self.feed.changing(self._heap.now)
        self._running = None
        complete = set(self.scheduler.computed(batch))
        for chunk in batch.chunks:
            attempt = self._attempts[chunk.request_id]
            if attempt.decode is not None:
                self._push(attempt, chunk, began_at)
            if chunk.request_id in complete:
                self._complete(attempt)
        self._turn()

    def _complete(self, attempt: JourneyAttempt) -> None:
        self._heap.after(self._cluster.call_seconds, attempt.journey.router.prefilled, attempt)
        if attempt.decode is None:
            self._release(attempt)
            return
        self._heap.at(attempt.sent_until, self._sent, attempt)

    def _sent(self, attempt: JourneyAttempt) -> None:
        """All of its KV has arrived."""
        assert attempt.decode is not None
        self.feed.changing(self._heap.now)
        self._release(attempt)
        self._heap.after(self._cluster.call_seconds, attempt.decode.commit, attempt)
        self._turn()  # blocks are free

    def _release(self, attempt: JourneyAttempt) -> None:
        self.scheduler.release(attempt.request_id)
        del self._attempts[attempt.request_id]

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
        assert attempt.decode is not None
        arrived_at = push_kv(
            self.port,
            attempt.decode.port,
            self._rate,
            num_bytes=num_bytes,
            last_bytes=last_bytes,
            ready_from=ready_from,
            ready_until=ready_until,
        )
        attempt.sent_until = max(attempt.sent_until, arrived_at)

    def _bytes(self, attempt: JourneyAttempt, start: int, end: int) -> int:
        """Of whole blocks that the decode worker lacks."""
        size = self._cluster.block_size
        first = max(start, attempt.held_tokens) // size
        return max(-(-end // size) - first, 0) * size * self.group.kv_bytes_per_token
