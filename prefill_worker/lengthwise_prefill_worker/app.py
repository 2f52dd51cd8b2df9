"""Where a prefill worker's objects are made and joined."""

import asyncio
import logging
from collections.abc import Sequence

from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_prefill_worker.kv.link import Identity
from lengthwise_prefill_worker.kv.pieces import PieceReady
from lengthwise_prefill_worker.kv.send import KVPush
from lengthwise_prefill_worker.messages import Command, Release, StepReport
from lengthwise_prefill_worker.metrics import PrefillMetrics
from lengthwise_prefill_worker.service import PrefillService
from lengthwise_prefill_worker.stepping.step_loop import PrefillLoop
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_runtime.step_thread import StepThread
from lengthwise_wire.convert import cost_to_wire
from lengthwise_wire.v1 import prefill_pb2_grpc, worker_pb2
from lengthwise_worker.application import WorkerApplication
from lengthwise_worker.deadline import wait_until
from lengthwise_worker.endpoint import Site
from lengthwise_worker.engine import STEP_SECONDS, Engine
from lengthwise_worker.server import WorkerHost, queue_status

logger = logging.getLogger(__name__)

SERVICE = "lengthwise.v1.PrefillWorker"

MAILBOX_LIMIT = 65_536
"""Commands, not requests: the queue limit of the policy refuses long before."""


class _Outputs:
    """Carries the engine thread's results to the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, push: KVPush, worker: "PrefillWorker"
    ) -> None:
        self._loop = loop
        self._push = push
        self._worker = worker

    def pieces(self, pieces: Sequence[PieceReady]) -> None:
        self._loop.call_soon_threadsafe(self._push_all, pieces)

    def stepped(self, report: StepReport) -> None:
        self._loop.call_soon_threadsafe(self._worker.on_step, report)

    def _push_all(self, pieces: Sequence[PieceReady]) -> None:
        for piece in pieces:
            self._push.piece(piece)


class PrefillWorker:
    """See `lengthwise_worker.application.RoleWorker`."""

    def __init__(self, config: PrefillWorkerConfig, engine: Engine, site: Site) -> None:
        self._config = config
        self._engine = engine
        self._site = site
        self.address = ""
        self._mailbox: Mailbox[Command] = Mailbox(MAILBOX_LIMIT)

    async def start(self) -> None:
        config = self._config
        self._host = WorkerHost(config, "prefill", SERVICE, self._status, self._site)
        self._metrics = PrefillMetrics(self._host.registry, config.policy.discipline)
        model = self._engine.model
        self._push = KVPush(
            identity=Identity(
                worker_id=self._host.worker_id,
                model_fingerprint=model.fingerprint,
                layout_fingerprint=self._engine.layout_fingerprint,
            ),
            sender=self._engine.transfer,
            layout=model.shards.layout,
            tls=config.tls,
            connect_seconds=config.connect_seconds,
            metrics=self._metrics,
            release=self._release,
        )
        self._service = PrefillService(
            spec=model.spec,
            mailbox=self._mailbox,
            push=self._push,
            metrics=self._metrics,
            block_size=model.shards.layout.block_size,
            model_fingerprint=model.fingerprint,
        )
        prefill_pb2_grpc.add_PrefillWorkerServicer_to_server(
            self._service, self._host.server.guarded
        )
        self._loop = self._build_loop(self._engine.take_over(self._push.on_event))
        self._metrics.watch(
            lambda: self._loop.snapshot,
            total_blocks=model.shards.num_blocks,
            block_size=model.shards.layout.block_size,
        )
        self._metrics.watch_steps(model.steps)
        self._metrics.introduce(
            worker_id=self._host.worker_id,
            model=config.model_name,
            model_fingerprint=model.fingerprint,
            length_class=config.length_class or "",
            flexible=self._site.is_flexible,
        )
        self._thread = StepThread(self._loop.step)
        self._thread.start()
        self.address = await self._host.open()
        logger.info("prefill worker %s listens on %s", self._host.worker_id, self.address)

    def _build_loop(self, blocks: PrefixCache) -> PrefillLoop:
        config, model = self._config, self._engine.model
        return PrefillLoop(
            runner=model.runner,
            scheduler=PrefillScheduler(
                config.policy, config.objectives, blocks, model.shards.layout.block_size
            ),
            blocks=blocks,
            mailbox=self._mailbox,
            outputs=_Outputs(asyncio.get_running_loop(), self._push, self),
            layerwise_tokens=config.layerwise_tokens,
            piece_bytes=config.piece_bytes,
        )

    async def drain(self) -> bool:
        """What runs is computed, pushed and committed."""
        self._service.draining = True
        await self._host.withdraw()
        await wait_until(
            lambda: not self._service.num_pending and not self._push.num_unfinished,
            self._config.drain_seconds,
        )
        await self._host.close()
        await self._push.close()
        return await asyncio.to_thread(self._thread.stop, STEP_SECONDS)

    def on_step(self, report: StepReport) -> None:
        """A step has ended; runs on the event loop."""
        self._service.on_outcomes(report.outcomes)
        self._metrics.count(report)
        if report.block_events is not None:
            self._host.block_log.append(report.block_events)
        self._host.board.changed()

    def _release(self, request_id: RequestId) -> None:
        self._mailbox.post(Release(request_id=request_id))

    def _status(self) -> worker_pb2.WorkerStatus:
        model, snapshot = self._engine.model, self._loop.snapshot
        layout = model.shards.layout
        cost = None if snapshot.cost is None else cost_to_wire(snapshot.cost, snapshot.cost_samples)
        return worker_pb2.WorkerStatus(
            worker_id=self._host.worker_id,
            role=worker_pb2.ROLE_PREFILL,
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
            prompt_tokens_total=snapshot.prompt_tokens_total,
            vocab_size=model.spec.vocab_size,
            blocks_cached=snapshot.blocks_cached,
            cost=cost,
            short_tokens=snapshot.short_tokens,
            kv_bytes_per_second=self._push.rate.bytes_per_second,
            kv_bytes_per_token=layout.num_layers * layout.block_bytes // layout.block_size,
            flexible=self._site.is_flexible,
            length_class=self._config.length_class or "",
        )


def prefill_application(config: PrefillWorkerConfig) -> WorkerApplication[PrefillWorkerConfig]:
    """The process of a prefill worker."""
    return WorkerApplication(config, PrefillWorker)
