"""A receiver maps a sender's caches if they are what the sender says, or takes the network."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import pytest
import torch
from transfer.ends import LAYOUT, new_cache

from lengthwise_engine.kv import cache
from lengthwise_engine.kv.cache import MEMORY_NAME, SharedKV
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.frames import frame
from lengthwise_engine.transfer.links.base import LinkUnavailable
from lengthwise_engine.transfer.links.rendezvous import PairStore
from lengthwise_engine.transfer.links.shared_memory import map_memory, offer_memory
from lengthwise_engine.transfer.messages import MemoryOffer, Ready

CPU = torch.device("cpu")
CACHE = new_cache(1)
SHARDS = KVShards.of(CACHE)


@pytest.fixture
def stores() -> Iterator[tuple[PairStore, PairStore]]:
    """The sender's and the receiver's."""
    ends = socket.socketpair()
    deadline = time.monotonic() + 10.0
    yield PairStore(ends[0], deadline), PairStore(ends[1], deadline)
    for end in ends:
        end.close()


def offer_of(shards: KVShards = SHARDS) -> MemoryOffer:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    statuses = [os.fstat(each) for each in shards.file_descriptors]
    files = tuple(f"{status.st_dev}:{status.st_ino}" for status in statuses)
    return MemoryOffer(boot_id=boot_id, process_id=os.getpid(), shards=shards, files=files)


def changed(**changes: object) -> MemoryOffer:
    return msgspec.structs.replace(offer_of(), **changes)


def in_a_file(file_descriptor: int) -> MemoryOffer:
    """An offer of whatever this is."""
    num_bytes = SHARDS.shares[0].num_bytes
    shared = SharedKV(num_bytes=num_bytes, file_descriptor=file_descriptor)
    return offer_of(replace(SHARDS, shares=(shared,)))


def memory(name: str, num_bytes: int) -> int:
    file_descriptor = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    os.ftruncate(file_descriptor, num_bytes)
    return file_descriptor


def test_the_receiver_sees_the_very_memory(stores: tuple[PairStore, PairStore]) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(offer_memory, stores[0], SHARDS)
        shards, (seen,) = map_memory(stores[1], LAYOUT, CPU)
        answer.result()
    assert shards == SHARDS
    before = CACHE.tensor[1, 2].clone()
    CACHE.tensor[1, 2] = 3.0
    assert bool((seen.tensor[1, 2] == 3.0).all())
    CACHE.tensor[1, 2] = before


@pytest.mark.parametrize("unwilling", ["sender", "receiver"])
def test_either_end_may_prefer_the_network(
    stores: tuple[PairStore, PairStore], unwilling: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(offer_memory, stores[0], None if unwilling == "sender" else SHARDS)
        with pytest.raises(LinkUnavailable, match="one end does not want shared memory"):
            map_memory(stores[1], LAYOUT, None if unwilling == "receiver" else CPU)
        with pytest.raises(LinkUnavailable, match="one end does not want shared memory"):
            answer.result()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: changed(boot_id="x"), "another machine", id="machine"),
        pytest.param(lambda: changed(process_id=2**22), "No such file", id="process is not here"),
        pytest.param(lambda: changed(process_id=-1), "No such file", id="negative"),
        pytest.param(lambda: changed(files=("1:1",)), "another PID namespace", id="other memory"),
        pytest.param(lambda: changed(files=()), "shorter", id="files missing"),
        pytest.param(lambda: in_a_file(0), "is no KV cache", id="not memory at all"),
        pytest.param(
            lambda: in_a_file(memory("other", 9)), "is no KV cache", id="memory of others"
        ),
        pytest.param(lambda: in_a_file(memory(MEMORY_NAME, 9)), "has 9 bytes", id="too small"),
        pytest.param(
            lambda: in_a_file(memory(MEMORY_NAME, SHARDS.shares[0].num_bytes)),
            "might shrink",
            id="unsealed",
        ),
        pytest.param(
            lambda: offer_of(replace(SHARDS, device_type="cuda")), "are on cuda", id="device"
        ),
        pytest.param(
            lambda: offer_of(replace(SHARDS, layout=replace(LAYOUT, head_dim=12), num_blocks=800)),
            "layout is",
            id="layout",
        ),
        pytest.param(Ready, "unexpected frame", id="another message"),
    ],
)
def test_what_is_not_as_it_was_said_is_not_mapped(
    stores: tuple[PairStore, PairStore], make: Callable[[], object], reason: str
) -> None:
    stores[0].set("memory", frame(make()))
    with pytest.raises(LinkUnavailable, match=reason) as caught:
        map_memory(stores[1], LAYOUT, CPU)
    assert stores[0].get("mapped").decode() == str(caught.value)


def test_a_gpu_that_cannot_be_reached_leaves_the_network(
    stores: tuple[PairStore, PairStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the driver's, in one line."""

    def refuse(handle: str, dtype: torch.dtype, device: torch.device | None) -> torch.Tensor:
        assert (handle, device) == ("handle", torch.device("cuda", 0))
        raise RuntimeError("CUDA error: peer access is not supported\nCompile with this and that")

    monkeypatch.setattr(cache, "open_cuda", refuse)
    shared = SharedKV(num_bytes=SHARDS.shares[0].num_bytes, cuda_handle="handle")
    shards = replace(SHARDS, device_type="cuda", shares=(shared,))
    stores[0].set("memory", frame(changed(shards=shards, files=())))
    with pytest.raises(LinkUnavailable, match=r"peer access is not supported$"):
        map_memory(stores[1], LAYOUT, torch.device("cuda", 0))
    assert stores[0].get("mapped") == b"CUDA error: peer access is not supported"
