"""Where a decode worker's objects are made and joined."""

import asyncio
import logging
from random import Random

from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_decode_worker.kv.receive import ArrivalEvents, KVReceive
from lengthwise_decode_worker.messages import Command
from lengthwise_decode_worker.metrics import DecodeMetrics
from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.reservations import Reservations
from lengthwise_decode_worker.service import DecodeService
from lengthwise_decode_worker.stepping.step_loop import DecodeLoop
from lengthwise_decode_worker.stepping.step_report import StepOutput
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_runtime.step_thread import StepThread
from lengthwise_wire.convert import cost_to_wire
from lengthwise_wire.v1 import decode_pb2_grpc, worker_pb2
from lengthwise_worker.application import WorkerApplication
from lengthwise_worker.deadline import wait_until
from lengthwise_worker.endpoint import Site
from lengthwise_worker.engine import STEP_SECONDS, Engine
from lengthwise_worker.server import WorkerHost, queue_status

logger = logging.getLogger(__name__)

SERVICE = "lengthwise.v1.DecodeWorker"

MAILBOX_LIMIT = 65_536
"""Commands, not requests: the queue limit of the policy refuses long before."""

SEED = 1
"""Of the scheduler's predictions: the same work is scheduled the same way."""


class DecodeWorker:
    """See `lengthwise_worker.application.RoleWorker`."""

    def __init__(self, config: DecodeWorkerConfig, engine: Engine, site: Site) -> None:
        self._config = config
        self._engine = engine
        self._site = site
        self.address = ""
        self._mailbox: Mailbox[Command] = Mailbox(MAILBOX_LIMIT)
        self._publisher = Publisher()

    async def start(self) -> None:
        config = self._config
        self._host = WorkerHost(config, "decode", SERVICE, self._status, self._site)
        self._metrics = DecodeMetrics(self._host.registry)
        model = self._engine.model
        layout = model.shards.layout
        self._reservations = Reservations(
            publisher=self._publisher, post=self._mailbox.post, block_size=layout.block_size
        )
        self._receive = self._reservations.receive = KVReceive(
            receiver=self._engine.transfer,
            layout=layout,
            num_blocks=model.shards.num_blocks,
            metrics=self._metrics,
            events=ArrivalEvents(
                committed=self._reservations.on_committed,
                failed=self._reservations.on_failed,
                drained=self._reservations.on_drained,
            ),
        )
        self._service = DecodeService(
            spec=model.spec,
            model_fingerprint=model.fingerprint,
            layout_fingerprint=self._engine.layout_fingerprint,
            block_size=layout.block_size,
            reservations=self._reservations,
            receive=self._receive,
            publisher=self._publisher,
        )
        decode_pb2_grpc.add_DecodeWorkerServicer_to_server(self._service, self._host.server.guarded)
        event_loop = asyncio.get_running_loop()
        blocks = self._engine.take_over(self._receive.on_event)
        self._loop = DecodeLoop(
            runner=model.runner,
            scheduler=DecodeScheduler(
                config.policy, config.objectives, blocks, layout.block_size, Random(SEED).random
            ),
            blocks=blocks,
            salt=model.fingerprint.encode(),
            mailbox=self._mailbox,
            publish=lambda output: _hand_over(event_loop, self, output),
        )
        self._metrics.watch_decoding(
            lambda: self._loop.snapshot,
            total_blocks=model.shards.num_blocks,
            block_size=layout.block_size,
        )
        self._metrics.watch_steps(self._engine.model.steps)
        self._metrics.introduce(
            worker_id=self._host.worker_id,
            model=config.model_name,
            model_fingerprint=model.fingerprint,
            length_class="",
            flexible=self._site.is_flexible,
        )
        self._thread = StepThread(self._loop.step)
        self._thread.start()
        self.address = await self._host.open()
        logger.info("decode worker %s listens on %s", self._host.worker_id, self.address)

    async def drain(self) -> bool:
        """What is reserved is finished; what is left after `drain_seconds` is given back to its
        router, which continues it elsewhere."""
        self._service.draining = True
        await self._host.withdraw()
        await wait_until(lambda: not len(self._reservations), self._config.drain_seconds)
        self._reservations.fail_all("this decode worker is going away")
        self._publisher.close()
        self._receive.close()
        await self._host.close()
        return await asyncio.to_thread(self._stop)

    def _stop(self) -> bool:
        """Whether the engine thread has ended; then no step writes to the cache any more."""
        has_ended = self._thread.stop(STEP_SECONDS)
        if has_ended:
            self._loop.close()
        return has_ended

    def on_step(self, output: StepOutput) -> None:
        """A step has ended; runs on the event loop."""
        for router_id, rows in output.rows.items():
            self._publisher.publish(router_id, rows)
        self._reservations.on_outcomes(output.outcomes)
        self._metrics.count(output)
        if output.block_events is not None:
            self._host.block_log.append(output.block_events)
        self._host.board.changed()

    def _status(self) -> worker_pb2.WorkerStatus:
        model, snapshot = self._engine.model, self._loop.snapshot
        layout, cost = model.shards.layout, snapshot.cost
        return worker_pb2.WorkerStatus(
            worker_id=self._host.worker_id,
            role=worker_pb2.ROLE_DECODE,
            model=self._config.model_name,
            model_fingerprint=model.fingerprint,
            layout_fingerprint=self._engine.layout_fingerprint,
            context_length=model.spec.context_length,
            block_size=layout.block_size,
            blocks_total=model.shards.num_blocks,
            blocks_free=snapshot.blocks_free,
            running_requests=snapshot.running_requests,
            queues=queue_status(snapshot.queues),
            step=self._loop.progress,
            draining=self._service.draining,
            output_tokens_total=snapshot.output_tokens_total,
            vocab_size=model.spec.vocab_size,
            prompt_tokens_total=snapshot.prompt_tokens_total,
            blocks_cached=snapshot.blocks_cached,
            blocks_predicted=snapshot.blocks_predicted,
            context_tokens=snapshot.context_tokens,
            kv_bytes_per_token=layout.num_layers * layout.block_bytes // layout.block_size,
            short_tokens=snapshot.short_tokens,
            cost=None if cost is None else cost_to_wire(cost, snapshot.cost_samples),
            flexible=self._site.is_flexible,
        )


def _hand_over(loop: asyncio.AbstractEventLoop, worker: DecodeWorker, output: StepOutput) -> None:
    loop.call_soon_threadsafe(worker.on_step, output)


def decode_application(config: DecodeWorkerConfig) -> WorkerApplication[DecodeWorkerConfig]:
    """The process of a decode worker."""
    return WorkerApplication(config, DecodeWorker)
