"""Everything around a worker's engine that other processes see of one role: server, health, status,
metrics, announcement."""

import asyncio
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from lengthwise_policy.types import Role
from lengthwise_runtime.block_log import BlockLog
from lengthwise_runtime.config import Address
from lengthwise_runtime.server import Server
from lengthwise_runtime.status import StatusBoard
from lengthwise_wire.announcement import Announcement
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.endpoint import Site

WORKER_SERVICE = "lengthwise.v1.Worker"

STOP_SECONDS = 0.5
"""For what a drain has not brought to its end: streams of routers and peers that do not read."""


class WorkerHost:
    """Life: construct, register the role's service on `server.guarded`, `open`, `withdraw`,
    `close`."""

    def __init__(
        self,
        config: WorkerConfig,
        role: Role,
        service: str,
        status: Callable[[], worker_pb2.WorkerStatus],
        site: Site,
    ) -> None:
        self.worker_id = f"{role}-{uuid.uuid4().hex[:12]}"
        self.registry = CollectorRegistry()
        self.block_log = BlockLog()
        self.board = StatusBoard(status, self.block_log, site.set_role)
        self.server = Server(site.listen, config.tls, (WORKER_SERVICE, service), site.pulse)
        worker_pb2_grpc.add_WorkerServicer_to_server(self.board, self.server.guarded)
        self._config = config
        self._role = role
        self._site = site
        self._note: Path | None = None

    async def open(self) -> str:
        """Listens, turns healthy, and announces the worker; returns its advertised address."""
        bound = await self.server.start()
        self._site.listen = str(bound)
        address = str(Address(self._config.advertise_host, bound.port))
        self._site.registry.register(self.registry)
        metrics = self._site.serve_metrics()
        await self.server.set_serving(True)
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

    async def withdraw(self) -> None:
        """First step of a drain: unhealthy, no longer announced, watchers told."""
        await self.server.set_serving(False)
        if self._note is not None:
            await asyncio.to_thread(self._note.unlink, missing_ok=True)
        self.board.changed()

    async def close(self) -> None:
        """Last step: nothing listens any more, no call runs, no metric of this role is shown."""
        self.board.close()
        await self.server.stop(STOP_SECONDS)
        self._site.registry.unregister(self.registry)


def queue_status(
    queues: Sequence[tuple[str, int, int]],
) -> list[worker_pb2.QueueStatus]:
    """(length class, requests, tokens) rows as they travel."""
    return [
        worker_pb2.QueueStatus(length_class=name, requests=requests, tokens=tokens)
        for name, requests, tokens in queues
    ]
