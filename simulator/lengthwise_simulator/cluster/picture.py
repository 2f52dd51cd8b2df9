"""Workers as a router sees them: their last reports, and what the router has placed there."""

from collections.abc import Iterable

from lengthwise_policy.kv.prefix_index import PrefixIndex
from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.outstanding import (
    Outstanding,
    Placed,
    QueuedPrompt,
    left_for_newcomer,
)
from lengthwise_policy.placement.worker_view import WorkerView, is_dated, still_queued
from lengthwise_policy.types import WorkerId
from lengthwise_simulator.cluster.journey import JourneyAttempt
from lengthwise_simulator.cluster.spec import ClusterSpec
from lengthwise_simulator.cluster.worker import SimulatedWorker


class WorkerPicture:
    """Lags behind the worker; what the router itself has placed does not."""

    def __init__(self, worker: SimulatedWorker, cluster: ClusterSpec, reader: int) -> None:
        self.worker = worker
        self._cluster = cluster
        self._reader = reader
        self._outstanding = Outstanding()
        self._report = worker.feed.open()
        self._cost = worker.fit.measured or worker.fit.model
        self._told_tokens = self._told_requests = 0  # as the routers' `Worker` has them
        self._queued_at = self._looked_at = 0.0
        self._view: WorkerView | None = None

    def place(self, placed: Placed, now: float) -> None:
        self._outstanding.add(placed, now)
        self._view = None

    def unplace(self, placed: Placed) -> None:
        self._outstanding.remove(placed)
        self._view = None

    def crowded(self, tokens_ahead: int, now: float) -> None:
        """It has refused a prompt, for so many tokens wait there."""
        self._told_tokens = tokens_ahead - self._outstanding.unseen_tokens
        self._queued_at = now
        self._view = None

    def not_local(self, placed: Placed, requests: int) -> None:
        """It has so many requests, this one among them, and does not compute its prompt."""
        self._told_requests = requests - self._outstanding.unseen_requests
        self.computed(placed)

    def computed(self, placed: Placed) -> None:
        """The decode worker has computed the prompt itself."""
        self._outstanding.computed(placed)
        self._view = None

    def look(self, now: float, index: PrefixIndex) -> WorkerView:
        """What is known now; what the worker reports of its blocks goes into the index."""
        worker = self.worker
        for report in worker.feed.take(self._reader, now):
            for events in report.events:
                index.update(
                    worker.worker_id, reset=False, added=events.added, removed=events.removed
                )
            self._report = report
            self._outstanding.status_came(report.sent_at + self._cluster.call_seconds)
            self._told_tokens = self._told_requests = 0
            self._view = None
            self._queued_at = report.sent_at + self._cluster.call_seconds
        view = self._view
        if view is None or is_dated(view, now - self._looked_at):
            self._looked_at = now
            view = self._view = self._look(now)
        return view

    def _look(self, now: float) -> WorkerView:
        worker, state, outstanding = self.worker, self._report.state, self._outstanding
        fresh_requests, fresh_tokens = outstanding.fresh
        queued, short = max(state.queued_tokens, self._told_tokens), state.queued_short_tokens
        age = now - self._queued_at
        queued, short = (
            still_queued(worker.role, each, self._cost, age) for each in (queued, short)
        )
        return WorkerView(
            worker_id=worker.worker_id,
            role=worker.role,
            blocks_total=worker.blocks.num_blocks,
            blocks_free=state.blocks_free,
            block_size=self._cluster.block_size,
            running_requests=max(state.running_requests, self._told_requests),
            queued_requests=state.queued_requests,
            queued_tokens=queued,
            queued_short_tokens=short,
            step=self._report.number,
            draining=state.draining,
            model_fingerprint="",
            layout_fingerprint="",
            outstanding_requests=outstanding.unseen_requests,
            outstanding_tokens=outstanding.unseen_tokens,
            outstanding_short_tokens=outstanding.unseen_short_tokens,
            fresh_requests=fresh_requests,
            fresh_tokens=fresh_tokens,
            outstanding_local_tokens=outstanding.local_tokens * self._cluster.routers,
            short_tokens=worker.fit.short_tokens,
            cost=self._cost,
            is_fitted=worker.fit.is_fitted,
            context_tokens=state.context_tokens,
            blocks_predicted=state.blocks_predicted,
            kv_bytes_per_token=worker.group.kv_bytes_per_token,
            kv_bytes_per_second=state.kv_bytes_per_second,
            length_class=worker.group.length_class,
        )


class FleetPicture:
    """Of all workers, and of the blocks that they report."""

    def __init__(self, cluster: ClusterSpec, reader: int) -> None:
        self._cluster = cluster
        self._reader = reader
        self._pictures: dict[WorkerId, WorkerPicture] = {}
        self.index = PrefixIndex()

    def __getitem__(self, name: WorkerId) -> WorkerPicture:
        return self._pictures[name]

    def joined(self, worker: SimulatedWorker) -> None:
        self._pictures[worker.worker_id] = WorkerPicture(worker, self._cluster, self._reader)

    def lost(self, worker: SimulatedWorker) -> None:
        self._pictures.pop(worker.worker_id, None)
        self.index.forget(worker.worker_id)

    def views(self, now: float) -> list[WorkerView]:
        return [picture.look(now, self.index) for picture in self._pictures.values()]

    def left_for(
        self, newcomer: WorkerId, attempts: Iterable[JourneyAttempt], now: float
    ) -> list[JourneyAttempt]:
        """Those of `attempts` that had better be placed anew, for this worker has come."""
        queued = {
            QueuedPrompt(
                worker_id=attempt.prefill.worker_id,
                num_tokens=attempt.num_tokens,
                residual_tokens=attempt.residual_tokens,
                refusals=len(attempt.journey.attempts.blame.workers),
            ): attempt
            for attempt in attempts
            if attempt.prefill is not None and attempt.prefill_placed is not None
            if attempt.prefill_called_at
        }
        views = [view for view in self.views(now) if view.role == "prefill"]
        view = next((each for each in views if each.worker_id == newcomer), None)
        if view is None or not queued:
            return []
        others = self._cluster.routers - 1
        return [queued[each] for each in left_for_newcomer(tuple(queued), view, views, others)]

    def prefill_placed(self, attempt: JourneyAttempt, now: float) -> None:
        """It counts at the prefill worker, if it has one."""
        if attempt.prefill is None:
            return
        picture, tokens = self._pictures[attempt.prefill.worker_id], attempt.residual_tokens
        short = tokens if length_class(tokens, picture.worker.fit.short_tokens) == "short" else 0
        attempt.prefill_placed = Placed(tokens=tokens, short_tokens=short)
        picture.place(attempt.prefill_placed, now)

    def prefill_ended(self, attempt: JourneyAttempt) -> None:
        """It counts at the prefill worker no more."""
        if attempt.prefill_placed is not None and attempt.prefill is not None:
            self._unplace(attempt.prefill.worker_id, attempt.prefill_placed)
            attempt.prefill_placed = None

    def crowded(self, attempt: JourneyAttempt, tokens_ahead: int, now: float) -> WorkerId:
        """Its prefill worker has refused it, for so many tokens wait there."""
        assert attempt.prefill is not None
        worker_id = attempt.prefill.worker_id
        self.prefill_ended(attempt)
        self._pictures[worker_id].crowded(tokens_ahead, now)
        return worker_id

    def not_local(self, attempt: JourneyAttempt, requests: int) -> None:
        """Its decode worker has so many requests that it does not compute the prompt."""
        assert attempt.decode is not None
        assert attempt.decode_placed is not None
        self._pictures[attempt.decode.worker_id].not_local(attempt.decode_placed, requests)

    def ended(self, attempt: JourneyAttempt) -> None:
        """It counts nowhere any more."""
        self.prefill_ended(attempt)
        if attempt.decode_placed is not None and attempt.decode is not None:
            self._unplace(attempt.decode.worker_id, attempt.decode_placed)
            attempt.decode_placed = None

    def _unplace(self, name: WorkerId, placed: Placed) -> None:
        picture = self._pictures.get(name)
        if picture is not None:
            picture.unplace(placed)
