"""Where a prefill worker's objects are made and joined."""

from collections.abc import Sequence

from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_prefill_worker.kv.pieces import PieceReady
from lengthwise_prefill_worker.kv.send import KVSend
from lengthwise_prefill_worker.messages import Command
from lengthwise_prefill_worker.metrics import PrefillMetrics
from lengthwise_prefill_worker.service import PrefillService
from lengthwise_prefill_worker.stepping.step_loop import PrefillLoop
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_runtime.mailbox import Mailbox, on_event_loop
from lengthwise_wire.v1 import decode_pb2, prefill_pb2_grpc, worker_pb2
from lengthwise_worker.endpoint import WorkerEndpoint
from lengthwise_worker.engine import Engine
from lengthwise_worker.messages import Release
from lengthwise_worker.role_worker import MAILBOX_LIMIT, RoleWorker


class PrefillWorker(RoleWorker):
    """Computes prompts and sends their KV to decode workers."""

    role = "prefill"
    service_name = "lengthwise.v1.PrefillWorker"
    _service: PrefillService
    _metrics: PrefillMetrics

    def __init__(
        self, config: PrefillWorkerConfig, engine: Engine, endpoint: WorkerEndpoint
    ) -> None:
        super().__init__(config, engine, endpoint, config.length_class or "")
        model, layout = engine.model, engine.model.shards.layout
        self._mailbox: Mailbox[Command] = Mailbox(MAILBOX_LIMIT)
        self._metrics = PrefillMetrics(self._server.registry, config.policy.discipline)
        self._send = KVSend(
            identity=decode_pb2.TransferHello(
                worker_id=self._server.worker_id,
                model_fingerprint=model.fingerprint,
                layout_fingerprint=engine.layout_fingerprint,
            ),
            sender=engine.transfer,
            layout=layout,
            tls=config.tls,
            connect_seconds=config.connect_seconds,
            metrics=self._metrics,
            release=self._release,
        )
        self._service = PrefillService(
            engine,
            mailbox=self._mailbox,
            send=self._send,
            metrics=self._metrics,
            queued_tokens=lambda: sum(tokens for *_, tokens in self._loop.snapshot.queues),
            max_seconds=config.max_request_seconds,
            tracer=self._tracer,
        )
        prefill_pb2_grpc.add_PrefillWorkerServicer_to_server(self._service, self._server.guarded)
        blocks = engine.take_over(self._send.on_event)
        self._loop = PrefillLoop(
            runner=model.runner,
            scheduler=PrefillScheduler(config.policy, config.objectives, blocks, layout.block_size),
            blocks=blocks,
            mailbox=self._mailbox,
            publish=on_event_loop(self._on_step),
            send=on_event_loop(self._on_pieces),
            layerwise_tokens=config.layerwise_tokens,
            piece_bytes=config.piece_bytes,
        )

    async def drain(self) -> bool:
        """What runs is computed, sent and committed."""
        await self._finish_requests()
        await self._server.close()
        await self._send.close()
        return await self._stop_thread()

    def _is_idle(self) -> bool:
        return not self._service.num_pending and not self._send.num_unfinished

    def _is_ready(self) -> bool:
        """It computes for decode workers, which have to receive what it computes."""
        return self._engine.transfer.is_up

    def _on_step(self, report: PrefillReport) -> None:
        """Runs on the event loop."""
        self._service.on_outcomes(report.outcomes)
        self._metrics.count(report)
        self._step_ended(report.block_events)

    def _on_pieces(self, pieces: Sequence[PieceReady]) -> None:
        """Runs on the event loop."""
        for piece in pieces:
            self._send.piece(piece)

    def _release(self, request_id: RequestId) -> None:
        self._mailbox.post(Release(request_id=request_id))

    def _status(self) -> worker_pb2.WorkerStatus:
        status = super()._status()
        status.kv_bytes_per_second = self._send.rate.bytes_per_second
        return status
