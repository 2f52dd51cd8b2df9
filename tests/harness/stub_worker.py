"""What the stubs of both roles share: the server, the status, and the ways to fail as a whole."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc

from lengthwise_runtime.server import Server
from lengthwise_wire.capabilities import CAPABILITIES, PREFIX_CACHING
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MODEL = "stub"
HEARTBEAT_SECONDS = 0.05

_ids = itertools.count()


class StubWorker(worker_pb2_grpc.WorkerServicer):
    """What both roles share: the server, the status, and the ways to fail as a whole."""

    role = worker_pb2.ROLE_UNSPECIFIED
    service = ""

    def __init__(self, *, model: str = MODEL, fingerprint: str = "weights") -> None:
        self.worker_id = f"{type(self).__name__}-{next(_ids)}"
        self.address = ""
        self.model = model
        self.fingerprint = fingerprint
        self.draining = False
        self.running = 0
        self.step = 0
        self.blocks_total = 1000
        self.watches = 0
        self.blocks: list[int] = []  # short hashes of what is cached
        self.num_cached_tokens = 0  # that it reports for every request
        self.capabilities = [*CAPABILITIES, PREFIX_CACHING]  # none: a worker of an older version
        self.status: dict[str, Any] = {}  # further fields of the status
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._server: Server | None = None

    async def start(self, listen: str = "127.0.0.1:0") -> None:
        self._server = Server(listen, None, [self.service])
        worker_pb2_grpc.add_WorkerServicer_to_server(self, self._server.guarded)
        self._register(self._server)
        self.address = str(await self._server.start())

    def _register(self, server: Server) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        """Dies: every call is cut off."""
        self.thaw()
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def restart(self) -> None:
        """Comes back under the same address as another process would."""
        self.worker_id = f"{type(self).__name__}-{next(_ids)}"
        await self.start(self.address)

    def freeze(self) -> None:
        """Says and does nothing any more, as a stopped process."""
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    async def while_frozen(self) -> None:
        await self._thawed.wait()

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        self.watches += 1
        while True:
            await self.while_frozen()
            blocks = worker_pb2.BlockEvents(reset=True, added=self.blocks)
            yield worker_pb2.WorkerStatus(
                worker_id=self.worker_id,
                role=self.role,
                model=self.model,
                model_fingerprint=self.fingerprint,
                layout_fingerprint="layout",
                block_size=16,
                blocks_total=self.blocks_total,
                blocks_free=self.blocks_total,
                running_requests=self.running,
                step=self.step,
                draining=self.draining,
                block_events=blocks if self.blocks else None,
                capabilities=self.capabilities,
                **self.status,
            )
            await asyncio.sleep(HEARTBEAT_SECONDS)
