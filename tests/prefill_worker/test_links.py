"""Links to decode workers: who waits for one that does not come up, and for how long."""

import asyncio
import itertools
from typing import Any

import pytest
from harness.waiting import eventually

from lengthwise_prefill_worker.kv import links as module
from lengthwise_prefill_worker.kv.links import DecodeLinks, WorkerKey
from lengthwise_wire.errors import TransferFailed

KEY = ("10.0.0.1:50051", "decode-1")


class Link:
    """One that comes up, or fails, once its network says so."""

    _numbers = itertools.count()

    def __init__(self, network: "Network") -> None:
        self.name = f"link-{next(self._numbers)}"
        self._network = network

    async def open(self, timeout_seconds: float) -> None:
        await self._network.answers.wait()
        if not self._network.works:
            raise TransferFailed("no route")

    async def closed(self) -> None: ...

    def close(self, reason: str) -> None: ...


class Network:
    """The ways to decode workers, and how often each was tried."""

    def __init__(self) -> None:
        self.works = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.tried = 0
        self.links = DecodeLinks(self._new, 5.0)

    def _new(self, _: WorkerKey) -> Any:
        self.tried += 1
        return Link(self)

    async def fails(self) -> None:
        async with asyncio.timeout(10):
            with pytest.raises(TransferFailed, match="no route"):
                await self.links.to(KEY)


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(module, "REOPEN_SECONDS", 0.02)
    return Network()


async def test_all_that_ask_at_first_wait_for_one_try(network: Network) -> None:
    network.works = True
    links = await asyncio.gather(*(network.links.to(KEY) for _ in range(5)))
    assert len(set(map(id, links))) == 1
    assert network.tried == 1


async def test_a_way_that_is_known_not_to_work_keeps_no_request_waiting_and_is_tried_again(
    network: Network,
) -> None:
    network.answers.clear()
    asking = asyncio.create_task(network.fails())
    await eventually(lambda: network.tried)
    await asyncio.sleep(0)
    assert not asking.done()
    network.answers.set()
    await asking
    network.answers.clear()
    await eventually(lambda: network.tried >= 2)
    await network.fails()  # though the next try is under way
    network.works = True
    network.answers.set()

    async def is_up() -> bool:
        try:
            return bool(await network.links.to(KEY))
        except TransferFailed:
            return False

    await eventually(is_up, 10)


async def test_a_way_that_is_asked_for_no_more_is_not_tried_for_ever(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.05)
    await network.fails()
    await eventually(lambda: not network.links._opening, 10)
    tried = network.tried
    await asyncio.sleep(0.1)
    assert network.tried == tried


@pytest.mark.slow
async def test_closing_ends_what_is_tried(network: Network) -> None:
    await network.fails()
    await network.links.close()
    with pytest.raises(TransferFailed):
        await asyncio.wait_for(network.links.to(KEY), 10)
    await network.links.close()
    assert not network.links._opening


async def test_a_link_that_cannot_be_made_fails_with_its_own_reason() -> None:
    def refuse(_: WorkerKey) -> Any:
        raise TransferFailed("the certificate cannot be read")

    links = DecodeLinks(refuse, 5.0)
    for _ in range(2):
        with pytest.raises(TransferFailed, match="certificate cannot be read"):
            await links.to(KEY)
    await links.close()
