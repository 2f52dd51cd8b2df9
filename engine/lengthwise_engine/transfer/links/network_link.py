"""Links over the network: a process group moves messages between buffers of the two ends.

gloo cannot be interrupted while it waits (`abort` and `shutdown` of torch 2.13's ProcessGroupGloo
wake nothing): bytes arrive in buffers, and only the gate of a receive lets them into the cache.
"""

import queue
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import torch

from lengthwise_engine.transfer.blocks.base import Blocks, Buffer
from lengthwise_engine.transfer.links.base import Finish, Handshake, Incoming, LinkClosed, Outgoing
from lengthwise_engine.transfer.links.process_group import (
    RECEIVER,
    SENDER,
    GlooGroup,
    Group,
    NcclGroup,
)
from lengthwise_engine.transfer.links.rendezvous import own_address

NUM_BUFFERS: Final = 3


class NetworkLinkKind:
    def open_sender(self, handshake: Handshake) -> "NetworkSender":
        return NetworkSender(_open_group(handshake, SENDER), handshake)

    def open_receiver(self, handshake: Handshake) -> "NetworkReceiver":
        return NetworkReceiver(_open_group(handshake, RECEIVER), handshake)


def _open_group(handshake: Handshake, rank: int) -> Group:
    store, stall_seconds = handshake.store, handshake.setup.stall_seconds
    if handshake.setup.backend == "gloo":
        address = own_address(handshake.connection)
        return GlooGroup(store, rank, address=address, stall_seconds=stall_seconds)
    return NcclGroup(store, rank, device=handshake.device, stall_seconds=stall_seconds)


class _NetworkEnd:
    def __init__(self, group: Group, handshake: Handshake) -> None:
        self.path = handshake.setup.backend
        self._group = group
        self._blocks = handshake.blocks
        self._buffers = _Buffers(handshake.blocks)

    def receive_data(self, data: bytes) -> None:
        """The peer's process group may have set values that this end had no need of."""

    def close(self) -> None:
        self._buffers.close()


class NetworkSender(_NetworkEnd):
    def begin(self, operation: Outgoing) -> Iterator[Finish]:
        for message in self._blocks.messages(operation.command.piece):
            buffer = self._buffers.take()
            memory = self._blocks.pack(message, buffer, operation.checksum)
            yield partial(self._finish, self._group.send(memory), memory, buffer)

    def _finish(self, moved: Finish, memory: torch.Tensor, buffer: Buffer) -> None:
        """`memory` must live until then."""
        moved()
        self._buffers.give_back(buffer)


class NetworkReceiver(_NetworkEnd):
    def begin(self, operation: Incoming) -> Iterator[Finish]:
        piece = operation.command.piece
        sizes = self._blocks.message_sizes(operation.command.num_bytes)
        messages = [None] * len(sizes) if piece is None else self._blocks.messages(piece)
        for size, message in zip(sizes, messages, strict=True):
            buffer = self._buffers.take()
            memory = buffer.tensor[:size]
            moved = self._group.recv(memory)
            yield partial(self._finish, operation, message, moved, memory, buffer)

    def _finish(
        self,
        operation: Incoming,
        message: Any,
        moved: Finish,
        memory: torch.Tensor,
        buffer: Buffer,
    ) -> None:
        """`message` None: the bytes are dropped."""
        moved()
        checksum = operation.checksum
        if message is None:
            buffer.check(memory, checksum)
        else:
            self._blocks.unpack(message, memory, buffer, checksum, operation.gate)
        self._buffers.give_back(buffer)


class _Buffers:
    """The messages that may move at once."""

    def __init__(self, blocks: Blocks) -> None:
        self._free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        for _ in range(NUM_BUFFERS):
            self._free.put(blocks.new_buffer())

    def take(self) -> Buffer:
        """Waits for one. Raises LinkClosed."""
        buffer = self._free.get()
        if buffer is None:
            raise LinkClosed
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        self._free.put(buffer)

    def close(self) -> None:
        self._free.put(None)
