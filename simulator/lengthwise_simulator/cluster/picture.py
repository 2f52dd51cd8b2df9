"""One worker as a router sees it: its last report, and what the router has placed there."""

from lengthwise_policy.kv.prefix_index import PrefixIndex
from lengthwise_policy.placement.outstanding import Outstanding, Placed
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_simulator.cluster.decode_worker import SimulatedDecodeWorker
from lengthwise_simulator.cluster.prefill_worker import SimulatedPrefillWorker
from lengthwise_simulator.cluster.spec import ClusterSpec

SimulatedWorker = SimulatedPrefillWorker | SimulatedDecodeWorker


class WorkerPicture:
    """Lags behind the worker; what the router itself has placed does not."""

    def __init__(self, worker: SimulatedWorker, cluster: ClusterSpec, reader: int) -> None:
        self.worker = worker
        self._cluster = cluster
        self._reader = reader
        self._outstanding = Outstanding()
        self._report = worker.feed.latest
        self._cost = worker.fit.measured or worker.fit.model
        self._seen_at = 0.0  # when a status came last, heartbeats included
        self._view: WorkerView | None = None

    def place(self, placed: Placed) -> None:
        self._outstanding.add(placed)
        self._view = None

    def unplace(self, placed: Placed) -> None:
        self._outstanding.remove(placed)
        self._view = None

    def computed(self, placed: Placed) -> None:
        """The decode worker has computed the prompt itself."""
        self._outstanding.computed(placed)
        self._view = None

    def look(self, now: float, index: PrefixIndex) -> WorkerView:
        """What is known now; what the worker reports of its blocks goes into the index."""
        reports = self.worker.feed.take(self._reader, now)
        for report in reports:
            self._came(report.at)
            if report.events is not None:
                index.update(
                    self.worker.worker_id,
                    reset=False,
                    added=report.events.added,
                    removed=report.events.removed,
                )
            self._report = report
        heartbeat = self._cluster.heartbeat_seconds
        while self._outstanding.unseen_requests and now - self._seen_at >= heartbeat:
            self._came(self._seen_at + heartbeat)
        if self._view is None:
            self._view = self._look()
        return self._view

    def _came(self, at: float) -> None:
        self._seen_at = at
        self._outstanding.status_came()
        self._view = None

    def _look(self) -> WorkerView:
        worker, state, outstanding = self.worker, self._report.state, self._outstanding
        return WorkerView(
            worker_id=worker.worker_id,
            role="prefill" if isinstance(worker, SimulatedPrefillWorker) else "decode",
            blocks_total=worker.blocks.num_blocks,
            blocks_free=state.blocks_free,
            block_size=self._cluster.block_size,
            running_requests=state.running_requests,
            queued_requests=state.queued_requests,
            queued_tokens=state.queued_tokens,
            queued_short_tokens=state.queued_short_tokens,
            step=self._report.number,
            draining=False,
            model_fingerprint="",
            layout_fingerprint="",
            outstanding_requests=outstanding.unseen_requests,
            outstanding_tokens=outstanding.unseen_tokens,
            outstanding_short_tokens=outstanding.unseen_short_tokens,
            outstanding_local_tokens=outstanding.local_tokens,
            short_tokens=worker.fit.short_tokens,
            cost=self._cost,
            is_fitted=worker.fit.is_fitted,
            context_tokens=state.context_tokens,
            blocks_predicted=state.blocks_predicted,
            kv_bytes_per_token=worker.group.kv_bytes_per_token,
            kv_bytes_per_second=state.kv_bytes_per_second,
            length_class=worker.group.length_class,
        )
