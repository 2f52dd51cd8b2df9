"""Which adapters are in memory: those that are computed with, and those asked for last."""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.lora.adapters import write_adapter
from harness.waiting import eventually

from lengthwise_engine.models.adapters.files import AdapterFile
from lengthwise_engine.models.adapters.room import AdapterRoom, AdapterSettings
from lengthwise_engine.models.adapters.stack import AdapterStack
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_wire.errors import NoWorkerAvailable, Overloaded
from lengthwise_worker.adapters import held as holding
from lengthwise_worker.adapters.held import HeldAdapters

Room = Callable[..., AdapterRoom]


@pytest.fixture
def make_room(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> Room:
    """`make_room(names, **settings)`: of adapters of these names."""

    def make(names: str, **settings: int) -> AdapterRoom:
        checkpoint = make_checkpoint("qwen3")
        folders = {
            name: write_adapter(tmp_path / "fixed" / name, checkpoint, seed=ord(name), rank=2)
            for name in names
        }
        given = AdapterSettings(folders=folders, **settings)
        shard = ModelShard(whole=read_spec(checkpoint))
        room = AdapterRoom(given, shard, torch.device("cpu"), torch.float32)
        room.open()
        return room

    return make


def _keys(room: AdapterRoom) -> list[str]:
    return [file.key for file in room.files]


def _downs(stack: AdapterStack) -> list[float]:
    """What tells the adapters of all places apart."""
    return next(stack.tensors()).view(stack.size, -1).sum(1).tolist()


async def _number(held: HeldAdapters, key: str) -> int:
    """The place of an adapter that nothing is computed with any more."""
    lease = await held.lease(key)
    assert lease is not None
    return lease.number


async def test_the_one_makes_room_that_was_not_asked_for_for_the_longest(make_room: Room) -> None:
    room = make_room("abc", places=2)
    held, stack, (a, b, c) = HeldAdapters(room), room.open(), _keys(room)
    first, second = _downs(stack)
    assert await _number(held, a) == 0
    assert await _number(held, b) == 1
    assert await _number(held, a) == 0
    assert await _number(held, c) == 1, "in the place of b"
    assert _downs(stack)[0] == first
    assert _downs(stack)[1] not in (first, second)
    assert await _number(held, b) == 0, "in the place of a"
    assert _downs(stack)[0] == second
    assert held.requests == {"a": 2, "b": 2, "c": 1}
    assert held.keys == [a, b, c], "what is not in memory is held too"


async def test_what_is_computed_with_stays_and_others_wait_for_a_place(make_room: Room) -> None:
    room = make_room("ab", places=1)
    held, (a, b) = HeldAdapters(room), _keys(room)
    lease = await held.lease(a)
    waiting = asyncio.create_task(held.lease(b))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert await _number(held, a) == 0, "who needs no place does not wait"
    del lease
    last = await waiting
    assert last is not None
    assert last.number == 0


async def test_who_waits_too_long_for_a_place_is_refused(
    make_room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "WAIT_SECONDS", 0.1)
    room = make_room("ab", places=1)
    held, (a, b) = HeldAdapters(room), _keys(room)
    lease = await held.lease(a)
    with pytest.raises(Overloaded, match="all 1 places for adapters are computed with"):
        await held.lease(b)
    assert lease is not None


async def test_many_at_once_load_an_adapter_once(
    make_room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room("ab", places=1)
    held, (_, b) = HeldAdapters(room), _keys(room)
    loaded: list[AdapterFile] = []
    put = room.put

    def counted(number: int, file: AdapterFile) -> None:
        loaded.append(file)
        put(number, file)

    monkeypatch.setattr(room, "put", counted)
    leases = await asyncio.gather(*(held.lease(b) for _ in range(5)))
    assert [lease.number for lease in leases if lease is not None] == [0] * 5
    assert [file.key for file in loaded] == [b]


async def test_none_and_unknown_adapters_need_no_room() -> None:
    held = HeldAdapters(None)
    assert await held.lease("") is None
    with pytest.raises(NoWorkerAvailable, match="'x@1', which this worker does not hold"):
        await held.lease("x@1")


async def test_a_load_whose_request_is_gone_is_not_written_over(
    make_room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it goes on, its place is nobody else's: two adapters' halves would be one."""
    room = make_room("abc", places=1)
    held, (_, b, c) = HeldAdapters(room), _keys(room)
    put, may_go_on, numbers = room.put, threading.Event(), list[str]()

    def slow(number: int, file: AdapterFile) -> None:
        numbers.append(f"begin {file.key}")
        assert may_go_on.wait(5.0)
        put(number, file)
        numbers.append(f"end {file.key}")

    monkeypatch.setattr(room, "put", slow)
    left = asyncio.create_task(held.lease(b))
    await eventually(lambda: bool(numbers))
    left.cancel()
    waiting = asyncio.create_task(held.lease(c))
    await asyncio.sleep(0.1)
    assert numbers == [f"begin {b}"]
    may_go_on.set()
    lease = await waiting
    assert lease is not None
    assert numbers == [f"begin {b}", f"end {b}", f"begin {c}", f"end {c}"]


async def test_all_who_wait_for_a_place_are_refused_in_time(
    make_room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one after the other."""
    monkeypatch.setattr(holding, "WAIT_SECONDS", 0.2)
    room = make_room("abcdef", places=1)
    held, (a, *others) = HeldAdapters(room), _keys(room)
    lease = await held.lease(a)
    async with asyncio.timeout(0.8):
        refused = await asyncio.gather(*map(held.lease, others), return_exceptions=True)
    assert [type(each) for each in refused] == [Overloaded] * 5
    assert lease is not None


async def test_an_adapter_that_is_cut_while_it_is_needed_is_not_served_and_harms_no_other(
    make_room: Room, tmp_path: Path
) -> None:
    """Reading a mapping of it would end the process."""
    room = make_room("ab", places=1)
    held, (a, b) = HeldAdapters(room), _keys(room)
    weights = tmp_path / "fixed/b/adapter_model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(NoWorkerAvailable, match="was cut while it was read"):
        await held.lease(b)
    assert await _number(held, a) == 0


async def test_an_adapter_that_is_written_over_while_it_is_loaded_is_not_served(
    make_room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room("ab", places=1)
    held, (_, b) = HeldAdapters(room), _keys(room)
    weights, put = tmp_path / "fixed/b/adapter_model.safetensors", room.put

    def written_to(number: int, file: AdapterFile) -> None:
        put(number, file)
        os.utime(weights, ns=(1, 1))

    monkeypatch.setattr(room, "put", written_to)
    with pytest.raises(NoWorkerAvailable, match="was written to where it lies"):
        await held.lease(b)


async def test_what_comes_into_the_folder_is_held_until_it_leaves(
    make_room: Room,
    make_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(holding, "SCAN_SECONDS", 0.02)
    monkeypatch.setattr(holding, "LEAVING_SECONDS", 1.0)
    room, folder = make_room("a", places=2, other_rank=4), tmp_path / "open"
    checkpoint = make_checkpoint("qwen3")
    folder.mkdir()
    held = HeldAdapters(room, folder)
    following = asyncio.create_task(held.follow())
    try:
        (a,) = held.keys
        made = tmp_path / "made"
        for name, rank in (("b", 4), ("large", 8), ("a", 4), ("no name", 4)):
            write_adapter(made, checkpoint, seed=1, rank=rank).rename(folder / name)
        (folder / "empty").mkdir()
        await eventually(lambda: len(held.keys) == 2)
        b = next(key for key in held.keys if key != a)
        assert b.startswith("b@")
        lease = await held.lease(b)
        assert lease is not None
        assert held.requests == {"a": 0, "b": 1}

        shutil.rmtree(folder / "b")
        await eventually(lambda: held.keys == [a])
        await eventually(lambda: not held._left)  # routers have had time to hear of it
        with pytest.raises(NoWorkerAvailable):
            await held.lease(b)
        write_adapter(made, checkpoint, seed=1).rename(folder / "b")
        await eventually(lambda: b in held.keys)
        write_adapter(made, checkpoint, seed=2)
        shutil.rmtree(folder / "b")
        made.rename(folder / "b")
        # Another version has come: for a while both can be asked for.
        await eventually(lambda: len(held.keys) == 3)
        assert await held.lease(b) is not None
        await eventually(lambda: len(held.keys) == 2)
        assert b not in held.keys
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(told) == 3, told
        assert "adapter 'a' is not served: another one of this name" in told[0]
        assert "adapter 'large' is not served" in told[1]
        assert "got r 8, expected at most 4" in told[1]
        assert "adapter 'no name' is not served: its name does not match" in told[2]
    finally:
        following.cancel()
