"""Blocks of a worker's caches as bytes, and how they enter and leave messages.

Invariant: both ends cut a piece into the same messages knowing nothing of each other but its size:
whole blocks, as many as fit into `MESSAGE_BYTES`, in wire order. On the wire a block of one layer
is [2, block_size, all KV heads, head_dim], however many ranks hold its heads.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
import xxhash

from lengthwise_engine.transfer.base import Piece
from lengthwise_kernels.dispatch import digest, num_digests

# Of 0.5 to 16 MiB, the sizes between 2 and 8 MiB are equally fast on idle cores; on busy ones the
# smaller ones fall behind. A link has three of them in memory.
MESSAGE_BYTES: Final = 4 * 2**20


class Gate:
    """Open until it is shut; a thread writing into the cache for it holds its lock meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_open = True

    def shut(self) -> None:
        """On return nothing writes, nor ever will."""
        with self.lock:
            self.is_open = False


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one message on its way: `tensor` on the device of the caches.

    On an accelerator whatever fills or empties it runs on its `stream`, and `pinned` takes the
    digests of what is in it, int64.
    """

    tensor: torch.Tensor
    pinned: torch.Tensor | None = None
    stream: torch.cuda.Stream | None = None

    @classmethod
    def allocate(cls, num_bytes: int, device: torch.device) -> "Buffer":
        tensor = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        if device.type != "cuda":
            return cls(tensor)
        pinned = torch.empty(num_digests(num_bytes), dtype=torch.int64, pin_memory=True)
        return cls(tensor, pinned, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    def check(self, memory: torch.Tensor, checksum: xxhash.xxh3_64) -> None:
        """Add `memory`, of a message at most, to the checksum: its bytes, or on an accelerator,
        which may be faster than the way to the host, its digests. The other end's caches lie on a
        device of the same type."""
        if self.pinned is not None:
            with self.used():
                digests = digest(memory.view(torch.int64))
                pinned = self.pinned[: len(digests)]
                pinned.copy_(digests, non_blocking=True)
            self.wait()
            memory = pinned
        checksum.update(memory.numpy().data)

    def used(self) -> AbstractContextManager[object]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def wait(self) -> None:
        """Until what was issued on the stream is done."""
        if self.stream is not None:
            self.stream.synchronize()


class Blocks(Protocol):
    """The caches of one worker, which messages are filled from and emptied into.

    What a message names is known to the implementation alone; all add the messages in wire order
    to the checksum.
    """

    def new_buffer(self) -> Buffer: ...

    def message_sizes(self, num_bytes: int) -> list[int]:
        """The messages of a piece of so many bytes."""

    def messages(self, piece: Piece) -> Sequence[Any]:
        """What each of the piece's messages names."""

    def pack(
        self, message: Any, buffer: Buffer, checksum: xxhash.xxh3_64 | None = None
    ) -> torch.Tensor:
        """The message's bytes: in the buffer, or where they lie if they lie in one piece."""

    def unpack(
        self,
        message: Any,
        memory: torch.Tensor,
        buffer: Buffer,
        checksum: xxhash.xxh3_64,
        gate: Gate,
    ) -> None:
        """From `memory` into the cache as long as the gate is open; `buffer` is at its disposal."""

    def digest(self, message: Any, buffer: Buffer, checksum: xxhash.xxh3_64) -> None:
        """Only add the message to the checksum."""


def full_message_bytes(block_bytes: int) -> int:
    """Bytes of a message that is not a piece's last."""
    return max(1, MESSAGE_BYTES // block_bytes) * block_bytes


def message_sizes(num_bytes: int, block_bytes: int) -> list[int]:
    full = full_message_bytes(block_bytes)
    return [min(full, num_bytes - start) for start in range(0, num_bytes, full)]
