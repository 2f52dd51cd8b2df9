"""Whether the two ends of a link are on one machine, and how the receiver maps the sender's caches.

The sender offers its caches over the connection that built the link; the receiver maps them if it
can, and answers whether it did. On the CPU it opens the very file descriptors of the sender's
process through `/proc`, read-only, which the system allows to the same user (with the same or more
rights) in one PID namespace; what it opened must be the memory that was meant, by machine boot,
device and inode. On a GPU the driver opens the sender's CUDA IPC handles, or refuses.

Invariant: nothing is mapped before its kind, size and layout were checked.
"""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from lengthwise_engine.errors import EngineError
from lengthwise_engine.kv.cache import MEMORY_NAME, KVCache, SharedKV
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.frames import FrameError, FrameReader, frame
from lengthwise_engine.transfer.links.base import LinkUnavailable
from lengthwise_engine.transfer.links.rendezvous import PairStore
from lengthwise_engine.transfer.messages import MEMORY_OFFER, MemoryOffer

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_OFFER_KEY: Final = "memory"
_ANSWER_KEY: Final = "mapped"
_YES: Final = "yes"


def offer_memory(store: PairStore, shards: KVShards | None) -> None:
    """The sender's part; returns once the receiver has mapped its caches.

    `shards` None: they are not offered. Raises LinkUnavailable with the receiver's reason, and the
    store's errors.
    """
    offer = None if shards is None else _offer(shards)
    store.set(_OFFER_KEY, b"" if offer is None else frame(offer))
    answer = store.get(_ANSWER_KEY).decode(errors="replace")
    if answer != _YES:
        raise LinkUnavailable(answer)


def map_memory(
    store: PairStore, layout: KVLayout, device: torch.device | None
) -> tuple[KVShards, tuple[KVCache, ...]]:
    """The receiver's part: the sender's caches, and their description.

    `device` is where CUDA caches are reached from; None: nothing is mapped. Raises LinkUnavailable,
    and the store's errors.
    """
    data = store.get(_OFFER_KEY)
    try:
        if device is None or not data:
            raise LinkUnavailable("one end does not want shared memory")
        offer = _read(data)
        caches = _map(offer, layout, device)
    # RuntimeError is what torch raises for a CUDA error.
    except (EngineError, FrameError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        store.set(_ANSWER_KEY, reason)
        raise LinkUnavailable(reason) from error
    store.set(_ANSWER_KEY, _YES)
    return offer.shards, caches


def _offer(shards: KVShards) -> MemoryOffer | None:
    boot_id = _boot_id()
    if boot_id is None:
        return None
    return MemoryOffer(
        boot_id=boot_id,
        process_id=os.getpid(),
        shards=shards,
        files=tuple(_identity(os.fstat(each)) for each in shards.file_descriptors),
    )


def _read(data: bytes) -> MemoryOffer:
    for offer in FrameReader(MEMORY_OFFER).feed(data):
        return offer
    raise LinkUnavailable("the sender's offer is no offer")


def _map(offer: MemoryOffer, layout: KVLayout, device: torch.device) -> tuple[KVCache, ...]:
    shards = offer.shards
    if offer.boot_id != _boot_id():
        raise LinkUnavailable("another machine")
    if shards.layout != layout:
        raise LinkUnavailable(f"the sender's layout is {shards.layout}, expected {layout}")
    if shards.device_type != device.type:
        raise LinkUnavailable(
            f"the sender's caches are on {shards.device_type}, not on {device.type}"
        )
    if device.type == "cuda":
        return _attach(shards, shards.shares, device)
    opened: list[SharedKV] = []
    try:
        for shared, identity in zip(shards.shares, offer.files, strict=True):
            opened.append(_open(offer.process_id, shared, identity))
        return _attach(shards, opened, device)
    finally:
        for shared in opened:
            assert shared.file_descriptor is not None
            os.close(shared.file_descriptor)


def _attach(
    shards: KVShards, shares: Sequence[SharedKV], device: torch.device
) -> tuple[KVCache, ...]:
    return tuple(
        KVCache.attach(
            shards.rank_layout(rank), shards.num_blocks, shared, is_read_only=True, device=device
        )
        for rank, shared in enumerate(shares)
    )


def _open(process_id: int, shared: SharedKV, identity: str) -> SharedKV:
    """The share of another process, with a file descriptor of this one that only reads."""
    if shared.file_descriptor is None:
        raise LinkUnavailable("the sender's cache has no file descriptor")
    path = f"/proc/{process_id:d}/fd/{shared.file_descriptor:d}"
    if not os.readlink(path).startswith(f"/memfd:{MEMORY_NAME}"):
        raise LinkUnavailable(f"{path} is no KV cache")
    file_descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(file_descriptor)
        if _identity(status) != identity:
            raise LinkUnavailable("another PID namespace")
        if status.st_size != shared.num_bytes:
            raise LinkUnavailable(f"{path} has {status.st_size} bytes, not {shared.num_bytes}")
        if not fcntl.fcntl(file_descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise LinkUnavailable(f"{path} might shrink")
    except BaseException:
        os.close(file_descriptor)
        raise
    return replace(shared, file_descriptor=file_descriptor)


def _identity(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _boot_id() -> str | None:
    """Names one run of one machine; None where the system does not name it."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
