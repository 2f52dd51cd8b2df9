"""Where a decode worker's objects are made and joined."""

from random import Random

from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_decode_worker.kv.receive import KVReceive
from lengthwise_decode_worker.messages import Command
from lengthwise_decode_worker.metrics import DecodeMetrics
from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.reservations import Reservations
from lengthwise_decode_worker.service import DecodeService
from lengthwise_decode_worker.stepping.step_loop import DecodeLoop
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_runtime.mailbox import Mailbox, on_event_loop
from lengthwise_wire.v1 import decode_pb2_grpc, worker_pb2
from lengthwise_worker.endpoint import WorkerEndpoint
from lengthwise_worker.engine import Engine
from lengthwise_worker.role_worker import MAILBOX_LIMIT, RoleWorker

SEED = 1
"""Of the scheduler's predictions: the same work is scheduled the same way."""


class DecodeWorker(RoleWorker):
    """Receives KV from prefill workers and generates tokens for routers."""

    role = "decode"
    service_name = "lengthwise.v1.DecodeWorker"
    _service: DecodeService
    _loop: DecodeLoop
    _metrics: DecodeMetrics

    def __init__(
        self, config: DecodeWorkerConfig, engine: Engine, endpoint: WorkerEndpoint
    ) -> None:
        super().__init__(config, engine, endpoint)
        model, layout = engine.model, engine.model.shards.layout
        mailbox: Mailbox[Command] = Mailbox(MAILBOX_LIMIT)
        self._publisher = Publisher()
        self._metrics = DecodeMetrics(self._server.registry)
        self._receive = KVReceive(
            receiver=engine.transfer,
            layout=layout,
            num_blocks=model.shards.num_blocks,
            metrics=self._metrics,
        )
        self._reservations = Reservations(
            receive=self._receive,
            publisher=self._publisher,
            post=mailbox.post,
            block_size=layout.block_size,
            max_per_router=config.max_reservations_per_router,
        )
        self._service = DecodeService(
            engine,
            reservations=self._reservations,
            receive=self._receive,
            publisher=self._publisher,
            max_seconds=config.max_request_seconds,
            tracer=self._tracer,
        )
        decode_pb2_grpc.add_DecodeWorkerServicer_to_server(self._service, self._server.guarded)
        blocks = engine.take_over(self._receive.on_event)
        self._loop = DecodeLoop(
            runner=model.runner,
            scheduler=DecodeScheduler(
                config.policy, config.objectives, blocks, layout.block_size, Random(SEED).random
            ),
            blocks=blocks,
            mailbox=mailbox,
            publish=on_event_loop(self._on_step),
        )
        self._metrics.watch_decoding(lambda: self._loop.snapshot)

    async def drain(self) -> bool:
        """What is reserved is finished; what is left after `drain_seconds` is given back to its
        router, which continues it elsewhere."""
        await self._finish_requests()
        self._reservations.fail_all("this decode worker is going away")
        self._publisher.close()
        self._receive.close()
        await self._server.close()
        return await self._stop_thread()

    def _is_idle(self) -> bool:
        return not len(self._reservations)

    def _on_step(self, report: DecodeReport) -> None:
        """Runs on the event loop."""
        for router_id, rows in report.rows.items():
            self._publisher.publish(router_id, rows)
        self._reservations.on_outcomes(report.outcomes)
        self._metrics.count(report)
        self._step_ended(report.block_events)

    def _status(self) -> worker_pb2.WorkerStatus:
        status, snapshot = super()._status(), self._loop.snapshot
        status.output_tokens_total = snapshot.output_tokens_total
        status.blocks_predicted = snapshot.blocks_predicted
        status.context_tokens = snapshot.context_tokens
        return status
