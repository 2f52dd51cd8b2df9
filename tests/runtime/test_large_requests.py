"""Connections that send large requests take turns; nobody else waits for them."""

import asyncio
from typing import Any

import pytest
from grpc.aio import EOF  # type: ignore[attr-defined]  # absent from the stubs

from lengthwise_runtime.calls import large_requests as module
from lengthwise_runtime.calls.large_requests import (
    BURST_BYTES,
    BYTES_PER_SECOND,
    LargeRequests,
)

MIB = 1 << 20
LARGE = bytes(4 * MIB)


class _Call:
    """One whose request is there."""

    def __init__(self, peer: str, request: Any) -> None:
        self._peer = peer
        self._request = request

    def peer(self) -> str:
        return self._peer

    async def read(self) -> Any:
        return self._request


class Clock:
    """Stands for the module's `time` and `asyncio`: it is later when somebody has slept."""

    Lock = asyncio.Lock

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        wakes_at = self.now + seconds
        await asyncio.sleep(0.02)  # others come first
        self.now = max(self.now, wakes_at)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "asyncio", clock)
    return clock


async def test_large_requests_are_read_at_their_pace_after_a_burst(clock: Clock) -> None:
    requests = LargeRequests()
    began_at = clock.now
    await asyncio.gather(*(requests.read(_Call("one", LARGE)) for _ in range(2)))
    assert clock.now == began_at
    await asyncio.gather(*(requests.read(_Call(name, LARGE)) for name in ("one", "one", "one")))
    least = (5 * len(LARGE) - BURST_BYTES - len(LARGE)) / BYTES_PER_SECOND
    assert least <= clock.now - began_at <= least + len(LARGE) / BYTES_PER_SECOND


async def test_other_connections_do_not_wait_for_those_that_take_turns(clock: Clock) -> None:
    requests = LargeRequests()
    for _ in range(3):
        await requests.read(_Call("one", LARGE))
    waiting = [asyncio.ensure_future(requests.read(_Call("one", LARGE))) for _ in range(3)]
    await asyncio.sleep(0)
    now = clock.now
    assert await requests.read(_Call("other", b"small")) == b"small"
    assert clock.now == now
    assert not any(each.done() for each in waiting)
    await asyncio.gather(*waiting)


async def test_small_requests_of_a_connection_that_sends_large_ones_cost_it_nothing(
    clock: Clock,
) -> None:
    requests = LargeRequests()
    await requests.read(_Call("one", LARGE))
    began_at = clock.now
    for _ in range(100):
        await requests.read(_Call("one", b"small"))
    # As large as the last one they would take 25 s.
    assert clock.now - began_at <= len(LARGE) / BYTES_PER_SECOND


async def test_a_call_without_a_request_has_none() -> None:
    assert await LargeRequests().read(_Call("one", EOF)) is None
