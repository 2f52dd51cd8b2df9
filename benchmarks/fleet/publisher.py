"""Workers that do nothing but publish statuses: hundreds of gRPC servers in a process, over the
status board that serves in real workers.

A busy one ends a step every STEP_SECONDS, and each changes its queue, its counts and a block.
"""

import asyncio
import itertools
import multiprocessing
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from typing import Any, Self

import grpc

from lengthwise_policy.kv.prefix_cache import BlockEvents
from lengthwise_policy.types import Role
from lengthwise_runtime.block_log import BlockLog
from lengthwise_runtime.server import Server
from lengthwise_runtime.status import StatusBoard, keep_role
from lengthwise_wire.capabilities import CAPABILITIES, PREFIX_CACHING
from lengthwise_wire.convert import ROLES_ON_WIRE
from lengthwise_wire.v1 import decode_pb2, decode_pb2_grpc, worker_pb2, worker_pb2_grpc

STEP_SECONDS = 0.04
START_SECONDS = 120.0
BLOCKS_KEPT = 256


class PublishingBoard(StatusBoard):
    """Counts the statuses that leave."""

    num_sent = 0

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        async for status in super().Watch(request, context):
            PublishingBoard.num_sent += 1
            yield status


class PublishingWorker(decode_pb2_grpc.DecodeWorkerServicer):
    """Its Tokens streams stay open and say nothing."""

    def __init__(self, role: Role, number: int, model: str) -> None:
        self._log = BlockLog()
        self._hashes = itertools.count(number << 40)
        self._kept: list[int] = []
        self._board = PublishingBoard(lambda: self._status, self._log, keep_role)
        self._server = Server("127.0.0.1:0", None, [])
        worker_pb2_grpc.add_WorkerServicer_to_server(self._board, self._server.guarded)
        decode_pb2_grpc.add_DecodeWorkerServicer_to_server(self, self._server.guarded)
        self._status = worker_pb2.WorkerStatus(
            worker_id=f"{role}-{number:012x}",
            role=ROLES_ON_WIRE[role],
            model=model,
            model_fingerprint="0123456789abcdef" * 4,
            layout_fingerprint="fedcba9876543210" * 4,
            context_length=131_072,
            block_size=16,
            blocks_total=20_000,
            blocks_free=10_000,
            kv_bytes_per_token=131_072,
            kv_bytes_per_second=1e10,
            vocab_size=128_256,
            short_tokens=256,
            cost=worker_pb2.CostModel(
                step_seconds=0.01,
                token_seconds=5e-5,
                attention_seconds=1e-8,
                history_seconds=1e-7,
                decode_request_seconds=1e-4,
                decode_context_seconds=1e-8 + number * 1e-12,
            ),
            capabilities=(*CAPABILITIES, PREFIX_CACHING),
        )
        self._queues = [self._status.queues.add(length_class=name) for name in ("short", "long")]

    async def start(self) -> str:
        return str(await self._server.start())

    async def stop(self) -> None:
        await self._server.stop(0)

    def step(self) -> None:
        """One has ended."""
        status, turn = self._status, self._status.step
        status.step += 1
        status.running_requests = 16 + turn % 7
        status.blocks_free = 10_000 - turn % 500
        status.context_tokens = 20_000 + turn % 1000
        status.output_tokens_total += status.running_requests
        for queue in self._queues:
            queue.requests = turn % 3
            queue.tokens = 200 * queue.requests
        self._kept.append(next(self._hashes))
        gone = (self._kept.pop(0),) if len(self._kept) > BLOCKS_KEPT else ()
        self._log.append(BlockEvents(added=(self._kept[-1],), removed=gone))
        self._board.changed()

    async def Tokens(
        self, request: decode_pb2.TokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[decode_pb2.TokenBatch]:
        yield decode_pb2.TokenBatch()
        await asyncio.Event().wait()


class PublishingWorkers:
    """Some workers in a process of their own; half of them are of each role."""

    def __init__(self, numbers: range, model: str, *, busy: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._count = len(numbers)
        self.process = context.Process(
            target=_publish, args=(theirs, numbers, model, busy), daemon=True
        )
        self.addresses: list[str] = []

    def __enter__(self) -> Self:
        self.process.start()
        if not self._connection.poll(START_SECONDS):
            raise TimeoutError(f"{self._count} workers have not started in {START_SECONDS} s")
        self.addresses = self._connection.recv()
        return self

    def num_sent(self) -> int:
        """Statuses, to all watchers."""
        self._connection.send(None)
        return int(self._connection.recv())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def _publish(connection: Connection, numbers: range, model: str, is_busy: bool) -> None:
    asyncio.run(_publish_for_ever(connection, numbers, model, is_busy))


async def _publish_for_ever(
    connection: Connection, numbers: range, model: str, is_busy: bool
) -> None:
    roles: tuple[Role, Role] = ("prefill", "decode")
    workers = [PublishingWorker(roles[number % 2], number, model) for number in numbers]
    connection.send([await worker.start() for worker in workers])
    while True:
        # In groups: workers do not end their steps at one instant.
        for first in range(8):
            await asyncio.sleep(STEP_SECONDS / 8)
            for worker in workers[first::8] if is_busy else ():
                worker.step()
        if connection.poll():
            connection.recv()
            connection.send(PublishingBoard.num_sent)
