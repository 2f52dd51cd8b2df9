"""Watchers hear of a worker at once, on change, and as a heartbeat."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from harness.waiting import eventually

from lengthwise_policy.kv.prefix_cache import BlockEvents
from lengthwise_policy.types import Role
from lengthwise_runtime.block_log import BlockLog
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.server import Server
from lengthwise_runtime.status import HEARTBEAT_SECONDS, RoleRefused, StatusBoard, keep_role
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc


class _Engine:
    def __init__(self) -> None:
        self.step = 0

    def status(self) -> worker_pb2.WorkerStatus:
        return worker_pb2.WorkerStatus(worker_id="w", step=self.step)


@asynccontextmanager
async def _watched(board: StatusBoard) -> AsyncIterator[worker_pb2_grpc.WorkerStub]:
    server = Server("127.0.0.1:0", None, ["lengthwise.v1.Worker"])
    worker_pb2_grpc.add_WorkerServicer_to_server(board, server.guarded)
    channel = open_channel(str(await server.start()), None)
    yield worker_pb2_grpc.WorkerStub(channel)
    await channel.close(None)
    await server.stop(0.1)


async def _hold(stub: worker_pb2_grpc.WorkerStub, expected: set[int], slowly: float) -> int:
    """Watches until it knows of `expected`; returns how often it received everything."""
    held: set[int] = set()
    resets = 0
    call = stub.Watch(worker_pb2.WatchRequest(), timeout=10)
    while held != expected:
        status = await call.read()
        assert isinstance(status, worker_pb2.WorkerStatus)
        assert status.worker_id == "w"
        events = status.block_events
        held = (set() if events.reset else held) - set(events.removed) | set(events.added)
        resets += events.reset
        await asyncio.sleep(slowly)
    call.cancel()
    return resets


@pytest.mark.parametrize("changes", [False, True], ids=["heartbeat", "change"])
async def test_watchers_hear_of_changes_early_and_of_nothing_in_time(changes: bool) -> None:
    engine = _Engine()
    board = StatusBoard(engine.status, BlockLog(), keep_role)
    async with _watched(board) as stub:
        call = stub.Watch(worker_pb2.WatchRequest(), timeout=10)
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


@pytest.mark.slow
async def test_only_urgent_changes_come_earlier_than_a_watcher_asks_for() -> None:
    boards = [StatusBoard(_Engine().status, BlockLog(), keep_role) for _ in range(2)]
    received = [0, 0]

    async def count(number: int) -> None:
        async with _watched(boards[number]) as stub:
            call = stub.Watch(worker_pb2.WatchRequest(interval_seconds=0.4), timeout=30)
            while not enough.is_set():
                await call.read()
                received[number] += 1
            call.cancel()

    enough = asyncio.Event()
    tasks = [asyncio.create_task(count(number)) for number in range(2)]
    await eventually(lambda: min(received) >= 2)
    received[:] = [0, 0]
    while received[1] < 9:
        await asyncio.sleep(0.02)
        boards[0].changed()
        boards[1].changed(urgent=True)
    assert received[0] <= 5
    enough.set()
    await asyncio.gather(*tasks)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [-1.0, float("nan"), float("inf")])
async def test_an_interval_that_cannot_be_is_held_to_what_can(interval: float) -> None:
    engine = _Engine()
    async with _watched(StatusBoard(engine.status, BlockLog(), keep_role)) as stub:
        call = stub.Watch(worker_pb2.WatchRequest(interval_seconds=interval), timeout=10)
        started_at = time.monotonic()
        await call.read()
        await call.read()
        assert HEARTBEAT_SECONDS / 2 < time.monotonic() - started_at < 5
        call.cancel()


@pytest.mark.slow
async def test_every_router_that_watches_counts_once_and_no_longer_than_it_does() -> None:
    async with _watched(StatusBoard(_Engine().status, BlockLog(), keep_role)) as stub:

        def watch(router_id: str) -> Any:
            return stub.Watch(worker_pb2.WatchRequest(router_id=router_id), timeout=20)

        calls = [watch(name) for name in ("one", "other", "other", "")]
        for call in calls:
            await call.read()
        last = watch("one")
        assert (await last.read()).routers == 2
        for call in calls[1:]:
            call.cancel()
        async with asyncio.timeout(15):
            while (await last.read()).routers != 1:
                pass
        last.cancel()
        calls[0].cancel()


@pytest.mark.slow
async def test_all_watchers_learn_of_the_same_blocks_whenever_they_come() -> None:
    """40,000 contents change under five watchers; messages carry 5,000 at most."""
    log = BlockLog(5_000)
    board = StatusBoard(_Engine().status, log, keep_role)
    expected = set(range(10_000, 40_000))
    log.append(BlockEvents(added=tuple(range(20_000)), removed=()))
    async with _watched(board) as stub, asyncio.TaskGroup() as tasks:
        early = [tasks.create_task(_hold(stub, expected, wait)) for wait in (0, 0, 0.1)]
        for first in range(0, 20_000, 1_000):
            removed = range(first, first + 1_000) if first < 10_000 else range(0)
            added = tuple(range(20_000 + first, 21_000 + first))
            log.append(BlockEvents(added=added, removed=tuple(removed)))
            board.changed()
            await asyncio.sleep(0.02)
        late = [tasks.create_task(_hold(stub, expected, 0)) for _ in range(2)]
    assert all(task.result() >= 1 for task in early)
    assert [task.result() for task in late] == [1, 1]


@pytest.mark.slow
async def test_the_parts_of_everything_do_not_wait_for_heartbeats() -> None:
    """24 parts, which would take 12 s at one per heartbeat."""
    log = BlockLog(1)
    log.append(BlockEvents(added=tuple(range(24)), removed=()))
    async with _watched(StatusBoard(_Engine().status, log, keep_role)) as stub:
        assert await _hold(stub, set(range(24)), 0) == 1


async def test_one_status_object_can_be_sent_to_all_watchers() -> None:
    shared = worker_pb2.WorkerStatus(worker_id="w")
    log = BlockLog()
    log.append(BlockEvents(added=(7,), removed=()))
    async with (
        _watched(StatusBoard(lambda: shared, log, keep_role)) as stub,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(2):
            tasks.create_task(_hold(stub, {7}, 0))
    assert not shared.HasField("block_events")


async def test_a_second_server_on_the_same_port_is_one_clear_error() -> None:
    first = Server("127.0.0.1:0", None, [])
    address = await first.start()
    second = Server(str(address), None, [])
    with pytest.raises(ConfigError, match="in use"):
        await second.start()
    await first.stop(0)
    await second.stop(0)


async def test_a_board_that_closes_sends_the_last_status_and_the_end() -> None:
    engine = _Engine()
    board = StatusBoard(engine.status, BlockLog(), keep_role)
    async with _watched(board) as stub:
        call = stub.Watch(worker_pb2.WatchRequest(), timeout=10)
        statuses = aiter(call)
        assert (await anext(statuses)).step == 0
        engine.step = 7
        board.close()
        assert [status.step async for status in statuses] == [7]
        late = stub.Watch(worker_pb2.WatchRequest(), timeout=10)
        assert [status.step async for status in late] == [7]


async def test_a_wish_for_a_role_is_passed_on_and_answered_with_the_one_before() -> None:
    wishes: list[Role] = []

    def set_role(role: Role) -> Role:
        wishes.append(role)
        return "prefill"

    async with _watched(StatusBoard(_Engine().status, BlockLog(), set_role)) as stub:
        wish = worker_pb2.SetRoleRequest(role=worker_pb2.ROLE_DECODE)
        assert (await stub.SetRole(wish)).previous == worker_pb2.ROLE_PREFILL
    assert wishes == ["decode"]


def _busy(_role: Role) -> Role:
    raise RoleRefused("it is busy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("board", "role", "code", "expected"),
    [
        pytest.param(
            StatusBoard(_Engine().status, BlockLog(), keep_role),
            worker_pb2.ROLE_DECODE,
            grpc.StatusCode.FAILED_PRECONDITION,
            "run lengthwise-flexible-worker",
            id="one role for life",
        ),
        pytest.param(
            StatusBoard(_Engine().status, BlockLog(), _busy),
            worker_pb2.ROLE_DECODE,
            grpc.StatusCode.FAILED_PRECONDITION,
            "it is busy",
            id="not now",
        ),
        pytest.param(
            StatusBoard(_Engine().status, BlockLog(), _busy),
            worker_pb2.ROLE_UNSPECIFIED,
            grpc.StatusCode.INVALID_ARGUMENT,
            "role: got 0, expected ROLE_PREFILL or ROLE_DECODE",
            id="no role",
        ),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused_with_the_reason(
    board: StatusBoard, role: worker_pb2.Role, code: grpc.StatusCode, expected: str
) -> None:
    async with _watched(board) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.SetRole(worker_pb2.SetRoleRequest(role=role))
    assert caught.value.code() is code
    assert expected in str(caught.value.details())
