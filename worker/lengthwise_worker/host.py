"""Everything around a worker's engine that other processes see: server, health, status, metrics,
announcement."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry

from lengthwise.v1 import worker_pb2, worker_pb2_grpc
from lengthwise_runtime.announce import Announcement
from lengthwise_runtime.block_log import BlockLog
from lengthwise_runtime.config import Address
from lengthwise_runtime.metrics import serve_metrics
from lengthwise_runtime.server import Server
from lengthwise_runtime.status import StatusBoard
from lengthwise_worker.config import WorkerConfig

WORKER_SERVICE = "lengthwise.v1.Worker"


class WorkerHost:
    """Life: construct, register the role's service on `server.guarded`, `open`, `withdraw`."""

    def __init__(
        self,
        config: WorkerConfig,
        role: Literal["prefill", "decode"],
        service: str,
        status: Callable[[], worker_pb2.WorkerStatus],
    ) -> None:
        self.worker_id = f"{role}-{uuid.uuid4().hex[:12]}"
        self.registry = CollectorRegistry()
        self.block_log = BlockLog()
        self.board = StatusBoard(status, self.block_log)
        self.server = Server(config.listen, config.tls, (WORKER_SERVICE, service))
        worker_pb2_grpc.add_WorkerServicer_to_server(self.board, self.server.guarded)
        self._config = config
        self._role = role
        self._note: Path | None = None

    async def open(self) -> str:
        """Listens, turns healthy, and announces the worker; returns its advertised address."""
        bound = await self.server.start()
        address = str(Address(self._config.advertise_host, bound.port))
        metrics = serve_metrics(self._config.metrics_listen, self.registry, self.server.pulse)
        await self.server.set_serving(True)
        if self._config.announce_folder is not None:
            announcement = Announcement(
                address=address,
                role=self._role,
                worker_id=self.worker_id,
                pid=os.getpid(),
                metrics=str(metrics[1]) if metrics else "",
            )
            self._note = await asyncio.to_thread(announcement.write, self._config.announce_folder)
        return address

    async def withdraw(self) -> None:
        """First step of a drain: unhealthy, no longer announced, watchers told."""
        await self.server.set_serving(False)
        if self._note is not None:
            await asyncio.to_thread(self._note.unlink, missing_ok=True)
        self.board.changed()


async def wait_until(idle: Callable[[], bool], timeout_seconds: float) -> None:
    """Returns when `idle` says so, or after the timeout. For drains: looks 50 times a second."""
    deadline = time.monotonic() + timeout_seconds
    while not idle() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def queue_status(
    queues: Sequence[tuple[str, int, int]],
) -> list[worker_pb2.QueueStatus]:
    """(length class, requests, tokens) rows as they travel."""
    return [
        worker_pb2.QueueStatus(length_class=name, requests=requests, tokens=tokens)
        for name, requests, tokens in queues
    ]
