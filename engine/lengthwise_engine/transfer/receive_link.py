"""The receiving end of a link: bytes land in buffers and go on into the cache only if still wanted.

The rule: a receive's gate is the one lock between writing its bytes into the cache and dropping it.
"""

from dataclasses import dataclass
from typing import Any

import xxhash

from lengthwise_engine.transfer.base import Received
from lengthwise_engine.transfer.blocks import Buffer, Gate
from lengthwise_engine.transfer.frames import Receive
from lengthwise_engine.transfer.link import Link
from lengthwise_engine.transfer.process_group import Group, Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incoming:
    """A receive under way."""

    command: Receive
    checksum: xxhash.xxh3_64
    gate: Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Posted:
    """A message on its way into a buffer."""

    incoming: _Incoming
    pending: Pending
    buffer: Buffer
    size: int
    message: Any  # None: bytes nobody wants
    is_last: bool


class ReceiveLink(Link[_Incoming, _Posted]):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outstanding: dict[int, _Incoming] = {}

    def receive(self, command: Receive) -> None:
        incoming = _Incoming(command=command, checksum=xxhash.xxh3_64(), gate=Gate())
        with self._lock:
            if self._down:
                return
            self._outstanding[command.sequence] = incoming
        self._operations.put(incoming)

    def discard(self, key: str) -> None:
        """On return no receive of this key that was asked for so far writes to the cache."""
        with self._lock:
            for incoming in self._outstanding.values():
                if incoming.command.key == key:
                    incoming.gate.shut()

    def _abandon(self) -> None:
        for incoming in self._outstanding.values():
            incoming.gate.shut()

    def _feed(self, group: Group, operation: _Incoming) -> None:
        piece = operation.command.piece
        sizes = self._blocks.message_sizes(operation.command.num_bytes)
        messages = [None] * len(sizes) if piece is None else self._blocks.messages(piece)
        for number, (size, message) in enumerate(zip(sizes, messages, strict=True), start=1):
            buffer = self._next_buffer()
            self._messages.put(
                _Posted(
                    incoming=operation,
                    pending=group.recv(buffer.tensor[:size]),
                    buffer=buffer,
                    size=size,
                    message=message,
                    is_last=number == len(sizes),
                )
            )

    def _drain(self, group: Group) -> None:
        while True:
            posted = self._next_message(wait=True)
            if posted is not None:
                posted.pending.wait()
                self._unpack(posted)

    def _unpack(self, posted: _Posted) -> None:
        incoming, buffer = posted.incoming, posted.buffer
        memory = buffer.tensor[: posted.size]
        if posted.message is None:
            incoming.checksum.update(buffer.host(memory))
        else:
            self._blocks.unpack(posted.message, memory, buffer, incoming.checksum, incoming.gate)
        self._buffers.put(buffer)
        if not posted.is_last:
            self._report_progress()
            return
        command = incoming.command
        with self._lock:
            del self._outstanding[command.sequence]
        self._report(
            Received(
                link=self.name,
                sequence=command.sequence,
                key=command.key,
                checksum=incoming.checksum.intdigest(),
            )
        )
