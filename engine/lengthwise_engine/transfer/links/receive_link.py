"""The receiving end of a link: bytes land in buffers and go on into the cache only if still wanted.

Where this end sees the sender's caches, the bytes are copied out of them, just as far as they are
wanted.

The rule: a receive's gate is the one lock between writing its bytes into the cache and dropping it.
"""

from dataclasses import dataclass
from typing import Any

import xxhash

from lengthwise_engine.transfer.base import Received
from lengthwise_engine.transfer.blocks.base import Buffer, Gate
from lengthwise_engine.transfer.blocks.open_blocks import pull
from lengthwise_engine.transfer.frames import Pulled, Receive
from lengthwise_engine.transfer.links.host_peer import HostPeer
from lengthwise_engine.transfer.links.link import Channel, Link
from lengthwise_engine.transfer.links.process_group import Group, Pending


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copied:
    """A message that was copied out of the sender's caches."""

    incoming: _Incoming
    is_last: bool


class ReceiveLink(Link[_Incoming, _Posted | _Copied]):
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

    def _feed(self, channel: Channel, operation: _Incoming) -> None:
        if isinstance(channel, HostPeer):
            self._pull(channel, operation)
        else:
            self._post(channel, operation)

    def _drain(self, channel: Channel) -> None:
        if isinstance(channel, HostPeer):
            self._tell_sender(channel)
        else:
            self._unpack_all()

    def _post(self, group: Group, operation: _Incoming) -> None:
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

    def _unpack_all(self) -> None:
        while True:
            posted = self._next_message(wait=True)
            assert isinstance(posted, _Posted)
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
        self._moved(incoming, posted.is_last)

    def _pull(self, peer: HostPeer, operation: _Incoming) -> None:
        command = operation.command
        assert peer.source is not None
        source = peer.source.blocks
        origins = source.messages(peer.next_offer(command.sequence, command.num_bytes))
        piece, buffer = command.piece, self._next_buffer()
        messages = [None] * len(origins) if piece is None else self._blocks.messages(piece)
        for number, (origin, message) in enumerate(zip(origins, messages, strict=True), start=1):
            self._check_open()
            if message is None:
                source.digest(origin, buffer, operation.checksum)
            else:
                pull(
                    source,
                    origin,
                    self._blocks,
                    message,
                    buffer,
                    operation.checksum,
                    operation.gate,
                )
            self._messages.put(_Copied(incoming=operation, is_last=number == len(origins)))
        self._buffers.put(buffer)

    def _tell_sender(self, peer: HostPeer) -> None:
        while True:
            copied = self._next_message(wait=True)
            assert isinstance(copied, _Copied)
            sequence = copied.incoming.command.sequence
            peer.say(Pulled(sequence=sequence, is_last=copied.is_last))
            self._moved(copied.incoming, copied.is_last)

    def _moved(self, incoming: _Incoming, is_last: bool) -> None:
        if not is_last:
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
