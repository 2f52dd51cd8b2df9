"""Watchers hear of a worker at once, on change, and as a heartbeat."""

import asyncio
import time

import pytest

from lengthwise.v1 import worker_pb2, worker_pb2_grpc
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.server import Server
from lengthwise_runtime.status import HEARTBEAT_SECONDS, StatusBoard


class _Engine:
    def __init__(self) -> None:
        self.step = 0

    def status(self) -> worker_pb2.WorkerStatus:
        return worker_pb2.WorkerStatus(worker_id="w", step=self.step)


@pytest.mark.parametrize("changes", [False, True], ids=["heartbeat", "change"])
async def test_watchers_hear_of_changes_early_and_of_nothing_in_time(changes: bool) -> None:
    engine = _Engine()
    board = StatusBoard(engine.status)
    server = Server("127.0.0.1:0", None, ["lengthwise.v1.Worker"])
    worker_pb2_grpc.add_WorkerServicer_to_server(board, server.guarded)
    address = await server.start()
    channel = open_channel(str(address), None)
    call = worker_pb2_grpc.WorkerStub(channel).Watch(worker_pb2.WatchRequest(), timeout=10)
    first = await call.read()
    assert first.step == 0
    started_at = time.monotonic()
    if changes:
        engine.step = 1
        board.changed()
    second = await call.read()
    seconds = time.monotonic() - started_at
    assert second.step == engine.step
    if not changes:
        assert seconds > HEARTBEAT_SECONDS / 2
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    await channel.close(None)
    await server.stop(0.1)


async def test_a_second_server_on_the_same_port_is_one_clear_error() -> None:
    first = Server("127.0.0.1:0", None, [])
    address = await first.start()
    second = Server(str(address), None, [])
    with pytest.raises(ConfigError, match="in use"):
        await second.start()
    await first.stop(0)
    await second.stop(0)
