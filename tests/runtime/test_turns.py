"""Many small calls of one caller: others wait for one of them, and the event loop for none of
gRPC's events."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lengthwise_runtime.calls.turns import Turns
from lengthwise_runtime.server import Server


async def test_a_call_waits_for_one_of_each_other_connection() -> None:
    turns, begun = Turns(), []

    async def call(peer: str) -> None:
        await turns.wait(peer)
        begun.append(peer)

    calls = [asyncio.create_task(call(peer)) for peer in [*["many"] * 9, *["some"] * 3, "one"]]
    await asyncio.gather(*calls)
    assert begun == [*["many", "many", "some", "one"], *["many", "some"] * 2, *["many"] * 5]


async def test_a_call_that_comes_alone_does_not_wait() -> None:
    turns = Turns()
    for _ in range(3):
        waiting = turns.wait("one")
        try:
            waiting.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("it waits")
        await asyncio.sleep(0)


async def test_callers_that_are_gone_take_no_turn() -> None:
    turns = Turns()
    calls = [asyncio.create_task(turns.wait("one")) for _ in range(100)]
    await asyncio.sleep(0)
    for each in calls[1:]:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    last = asyncio.create_task(turns.wait("one"))
    for _ in range(4):  # passes of the event loop
        await asyncio.sleep(0)
    assert last.done()


def _wakeups() -> socket.socket:
    """What gRPC's thread writes a byte to for each event."""
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    sockets = [
        key.fileobj
        for key in selector.get_map().values()
        if "PollerCompletionQueue" in repr(key.data) or "_handle_all" in repr(key.data)
    ]
    (found,) = sockets
    assert isinstance(found, socket.socket)
    return found


def _unread(wakeups: socket.socket) -> int:
    try:
        return len(wakeups.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


async def test_a_pass_of_the_event_loop_takes_all_events_that_are_there() -> None:
    server = Server("127.0.0.1:0", None, [])
    address = str(await server.start())
    wakeups = _wakeups()
    await asyncio.sleep(0.1)  # it takes calls now

    def call_often() -> None:
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            calls = [
                stub.Check.future(health_pb2.HealthCheckRequest(service="live"), timeout=20)
                for _ in range(40)
            ]
            for each in calls:
                each.result()

    with ThreadPoolExecutor(1) as pool:
        calling = asyncio.get_running_loop().run_in_executor(pool, call_often)
        give_up_at = time.monotonic() + 20
        while _unread(wakeups) < 8 and time.monotonic() < give_up_at:
            time.sleep(0.01)  # noqa: ASYNC251  (so that events gather)
        gathered = _unread(wakeups)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left = _unread(wakeups)
        await calling
    await server.stop(0.1)
    assert gathered >= 8
    assert left < 4
