"""A worker of one role over an engine, whichever role it is."""

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch

from lengthwise_policy.kv.prefix_cache import BlockEvents
from lengthwise_policy.types import Role
from lengthwise_runtime.step_thread import StepThread
from lengthwise_runtime.tracing.config import tracer_of
from lengthwise_wire.capabilities import (
    CAPABILITIES,
    PREFIX_CACHING,
    adapter_capability,
    numerics_capability,
)
from lengthwise_wire.convert import ROLES_ON_WIRE, cost_to_wire
from lengthwise_wire.v1 import worker_pb2
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.deadline import wait_until
from lengthwise_worker.endpoint import WorkerEndpoint
from lengthwise_worker.engine import STEP_SECONDS, Engine
from lengthwise_worker.metrics import WorkerMetrics
from lengthwise_worker.server import WorkerServer
from lengthwise_worker.step_loop import StepLoop

logger = logging.getLogger(__name__)

MAILBOX_LIMIT = 65_536
"""Commands, not requests: the queue limit of the policy refuses long before."""


class RoleService(Protocol):
    """The gRPC service of a role."""

    draining: bool
    """New requests are refused."""


class RoleWorker(ABC):
    """Serves one role over an engine that exists before it and outlives it.

    A role makes its service, loop and metrics in `__init__`, on the event loop.
    """

    role: ClassVar[Role]
    service_name: ClassVar[str]
    _service: RoleService
    _loop: StepLoop
    _metrics: WorkerMetrics

    def __init__(
        self, config: WorkerConfig, engine: Engine, endpoint: WorkerEndpoint, length_class: str = ""
    ) -> None:
        """`length_class`: of the prompts meant for this worker; empty: all."""
        self.address = ""
        """host:port that it advertises, once started."""
        self._config = config
        self._engine = engine
        self._endpoint = endpoint
        self._length_class = length_class
        self._server = WorkerServer(config, self.role, self.service_name, self._status, endpoint)
        name, instance = f"lengthwise-{self.role}-worker", self._server.worker_id
        self._tracer = tracer_of(config.tracing, name, instance)

    async def start(self) -> None:
        """Returns when it serves. Errors: ConfigError when its address is taken."""
        model, metrics = self._engine.model, self._metrics
        metrics.watch(
            lambda: self._loop.snapshot,
            total_blocks=model.shards.num_blocks,
            block_size=model.shards.layout.block_size,
        )
        metrics.watch_steps(model.steps)
        metrics.watch_adapters(lambda: self._engine.adapters.requests)
        metrics.introduce(self._status())
        # A thread that never asked has its small products of matrices computed by all cores, whose
        # threads then wait for one another busily: OpenMP keeps the number for each thread.
        self._thread = StepThread(self._loop.step, begin=torch.get_num_threads)
        self._thread.start()
        self.address = await self._server.open()
        self._readiness = asyncio.create_task(self._follow_transfer(), name="readiness")
        logger.info("%s worker %s listens on %s", self.role, self._server.worker_id, self.address)

    @abstractmethod
    async def drain(self) -> bool:
        """Refuses new requests, finishes what runs, or gives it back, within `drain_seconds`; then
        nothing listens and no link is open. False: the engine thread has not ended in time, and
        still uses the engine."""

    @abstractmethod
    def _is_idle(self) -> bool:
        """Whether every request has ended."""

    async def _finish_requests(self) -> None:
        """First part of a drain: refuses new requests, and waits for the others within
        `drain_seconds`."""
        self._service.draining = True
        self._readiness.cancel()
        await asyncio.wait((self._readiness,))
        await self._server.withdraw()
        await wait_until(self._is_idle, self._config.drain_seconds)

    def _is_ready(self) -> bool:
        """Whether it can do any of its work, as its health reports it while it serves."""
        return True

    async def _follow_transfer(self) -> None:
        """Until cancelled: reports when KV can no longer be moved, and when it can again."""
        while True:
            changed = self._engine.transfer_changed
            await self._server.set_ready(self._is_ready())
            await changed.wait()

    async def _stop_thread(self) -> bool:
        """Last part of a drain: whether the engine thread has ended, and the step it launched."""
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        has_ended = await asyncio.to_thread(self._thread.stop, STEP_SECONDS)
        if has_ended:
            await asyncio.to_thread(self._loop.close)
        return has_ended

    def _step_ended(self, block_events: BlockEvents | None) -> None:
        """Notifies watchers of the status; runs on the event loop."""
        if block_events is not None:
            self._server.block_log.append(block_events)
        self._server.board.changed()

    def _status(self) -> worker_pb2.WorkerStatus:
        """What routers receive: a new message, to which the role adds what it alone has."""
        model, snapshot = self._engine.model, self._loop.snapshot
        layout, cost = model.shards.layout, snapshot.cost
        return worker_pb2.WorkerStatus(
            worker_id=self._server.worker_id,
            role=ROLES_ON_WIRE[self.role],
            model=self._config.model_name,
            model_fingerprint=model.fingerprint,
            layout_fingerprint=self._engine.layout_fingerprint,
            context_length=model.spec.context_length,
            vocab_size=model.spec.vocab_size,
            block_size=layout.block_size,
            kv_bytes_per_token=layout.num_layers * layout.block_bytes // layout.block_size,
            blocks_total=model.shards.num_blocks,
            blocks_free=snapshot.blocks_free,
            blocks_cached=snapshot.blocks_cached,
            running_requests=snapshot.running_requests,
            queues=[
                worker_pb2.QueueStatus(length_class=name, requests=requests, tokens=tokens)
                for name, requests, tokens in snapshot.queues
            ],
            step=self._loop.progress,
            prompt_tokens_total=snapshot.prompt_tokens_total,
            cost=None if cost is None else cost_to_wire(cost, snapshot.cost_samples),
            short_tokens=snapshot.short_tokens,
            capabilities=(
                *CAPABILITIES,
                *(PREFIX_CACHING,) * self._config.prefix_caching,
                *numerics_capability(model.numerics),
                *map(adapter_capability, self._engine.adapters.keys),
            ),
            transfer_down=not self._engine.transfer.is_up,
            draining=self._service.draining,
            flexible=self._endpoint.is_flexible,
            length_class=self._length_class,
        )
