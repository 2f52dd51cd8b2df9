"""Workers that do nothing but publish statuses: hundreds of gRPC servers in a process, at a fifth
of what real workers' servers cost, so that two cores can hold a thousand of them and the router.

A busy one ends a step every STEP_SECONDS, and each changes its queue, its counts and a block: every
status has all of that. They keep to `Worker.Watch`'s contract: a status at once, then at the
interval that the watcher asks for while they are busy, else as heartbeats.
"""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import grpc

from lengthwise_policy.types import Role
from lengthwise_runtime.status import CHANGE_SECONDS, HEARTBEAT_SECONDS, LONGEST_SECONDS
from lengthwise_wire.capabilities import CAPABILITIES, PREFIX_CACHING
from lengthwise_wire.convert import ROLES_ON_WIRE
from lengthwise_wire.v1 import worker_pb2

STEP_SECONDS = 0.04
START_SECONDS = 120.0
BLOCKS_KEPT = 256

Context = grpc.aio.ServicerContext[Any, Any]


class PublishingWorker(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # of the stubs alone
    """Its Tokens streams stay open and say nothing."""

    num_sent = 0
    """By all of a process."""

    def __init__(self, role: Role, number: int, model: str, *, busy: bool) -> None:
        self._is_busy = busy
        self._began_at = time.monotonic() + number % 100 * STEP_SECONDS / 100
        self._first_block = number << 40
        self._handlers = {
            "/lengthwise.v1.Worker/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            "/lengthwise.v1.DecodeWorker/Tokens": grpc.unary_stream_rpc_method_handler(
                self._tokens
            ),
        }
        self._constant = _constant_part(role, number, model).SerializeToString()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)

    async def start(self) -> str:
        self._server = grpc.aio.server(handlers=[self])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def _watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        wanted = worker_pb2.WatchRequest.FromString(request).interval_seconds
        interval = min(max(CHANGE_SECONDS, wanted), LONGEST_SECONDS)
        if not self._is_busy:
            interval = max(interval, HEARTBEAT_SECONDS)
        last: int | None = None
        while True:
            step = int((time.monotonic() - self._began_at) / STEP_SECONDS) if self._is_busy else 0
            PublishingWorker.num_sent += 1
            # Fields that come twice are taken from where they come last.
            yield self._constant + self._changing_part(step, last).SerializeToString()
            last = step
            await asyncio.sleep(interval)

    def _changing_part(self, step: int, last: int | None) -> worker_pb2.WorkerStatus:
        status = worker_pb2.WorkerStatus(
            step=step,
            running_requests=16 + step % 7,
            blocks_free=10_000 - step % 500,
            context_tokens=20_000 + step % 1000,
            output_tokens_total=18 * step,
        )
        for name in ("short", "long"):
            count = step % 3
            status.queues.add(length_class=name, requests=count, tokens=200 * count)
        held = range(self._first_block + max(step - BLOCKS_KEPT, 0), self._first_block + step)
        events = status.block_events
        if last is None:
            events.reset = True
            events.added.extend(held)
        elif step > last:
            gone = range(self._first_block + max(last - BLOCKS_KEPT, 0), held.start)
            events.added.extend(held[-(step - last) :])
            events.removed.extend(gone)
        return status

    async def _tokens(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b""
        await asyncio.Event().wait()


def _constant_part(role: Role, number: int, model: str) -> worker_pb2.WorkerStatus:
    return worker_pb2.WorkerStatus(
        worker_id=f"{role}-{number:012x}",
        role=ROLES_ON_WIRE[role],
        model=model,
        model_fingerprint="0123456789abcdef" * 4,
        layout_fingerprint="fedcba9876543210" * 4,
        context_length=131_072,
        block_size=16,
        blocks_total=20_000,
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


class PublishingWorkers:
    """Some workers in a process of their own; half of them are of each role."""

    def __init__(self, numbers: range, model: str, *, busy: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._count = len(numbers)
        self.process = context.Process(
            target=_publish, args=(theirs, numbers, model, busy), daemon=True
        )
        self.addresses: Sequence[str] = ()

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
    workers = [
        PublishingWorker(roles[number % 2], number, model, busy=is_busy) for number in numbers
    ]
    connection.send([await worker.start() for worker in workers])
    while True:
        await asyncio.sleep(0.05)
        if connection.poll():
            connection.recv()
            connection.send(PublishingWorker.num_sent)
