"""What other processes see of one role: its gRPC server with health and status, its metrics, its
announcement."""

import asyncio
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from lengthwise_policy.types import Role
from lengthwise_runtime.block_log import BlockLog
from lengthwise_runtime.config import Address
from lengthwise_runtime.metrics import count_refused_calls
from lengthwise_runtime.server import Server
from lengthwise_runtime.status import StatusBoard
from lengthwise_wire.announcement import Announcement
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.endpoint import WorkerEndpoint

WORKER_SERVICE = "lengthwise.v1.Worker"

STOP_SECONDS = 0.5
"""For what a drain has not brought to its end: streams of routers and peers that do not read."""


class WorkerServer:
    """Life: construct, register the role's service on `guarded`, `open`, `withdraw`, `close`."""

    def __init__(
        self,
        config: WorkerConfig,
        role: Role,
        service: str,
        status: Callable[[], worker_pb2.WorkerStatus],
        endpoint: WorkerEndpoint,
    ) -> None:
        self.worker_id = f"{role}-{uuid.uuid4().hex[:12]}"
        self.registry = CollectorRegistry()
        self.block_log = BlockLog()
        self.board = StatusBoard(status, self.block_log, endpoint.set_role)
        self._server = Server(
            endpoint.listen,
            config.tls,
            (WORKER_SERVICE, service),
            endpoint.liveness,
            count=count_refused_calls(self.registry),
        )
        self.guarded = self._server.guarded
        worker_pb2_grpc.add_WorkerServicer_to_server(self.board, self.guarded)
        self._config = config
        self._role = role
        self._endpoint = endpoint
        self._note: Path | None = None

    async def open(self) -> str:
        """Listens, turns healthy, and announces the worker; returns its advertised address."""
        bound = await self._server.start()
        self._endpoint.listen = str(bound)
        address = str(Address(self._config.advertise_host, bound.port))
        self._endpoint.registry.register(self.registry)
        metrics = self._endpoint.serve_metrics()
        await self._server.set_serving(True)
        if self._config.announce_folder is not None:
            announcement = Announcement(
                address=address,
                role=self._role,
                worker_id=self.worker_id,
                pid=os.getpid(),
                metrics=metrics,
            )
            self._note = await asyncio.to_thread(announcement.write, self._config.announce_folder)
        return address

    async def set_ready(self, ready: bool) -> None:
        """What health reports while it serves; watchers are notified of what else has changed."""
        await self._server.set_serving(ready)
        self.board.changed(urgent=True)

    async def withdraw(self) -> None:
        """First step of a drain: unhealthy, no longer announced, watchers notified."""
        await self._server.set_serving(False)
        if self._note is not None:
            await asyncio.to_thread(self._note.unlink, missing_ok=True)
        self.board.changed(urgent=True)

    async def close(self) -> None:
        """Last step: nothing listens any more, no call runs, no metric of this role is shown."""
        self.board.close()
        await self._server.stop(STOP_SECONDS)
        self._endpoint.registry.unregister(self.registry)
