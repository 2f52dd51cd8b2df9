"""The sending end of a link: blocks are packed and hashed while the message before them moves.

Where the receiver sees this end's caches, nothing is packed: pieces are offered, and hashed while
the receiver copies them.
"""

from collections import deque
from dataclasses import dataclass

import torch
import xxhash

from lengthwise_engine.transfer.base import Sent
from lengthwise_engine.transfer.blocks.base import Buffer
from lengthwise_engine.transfer.frames import Offer, Send
from lengthwise_engine.transfer.links.host_peer import HostPeer
from lengthwise_engine.transfer.links.link import Channel, Link
from lengthwise_engine.transfer.links.process_group import Group, Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """A message that is ready to be sent."""

    memory: torch.Tensor
    buffer: Buffer
    sent: Sent | None  # what to report after the last message of a piece


class SendLink(Link[Send, _Packed | Sent]):
    """In its pipeline are messages, or whole pieces that are offered."""

    def send(self, command: Send) -> None:
        self._operations.put(command)

    def _feed(self, channel: Channel, operation: Send) -> None:
        if isinstance(channel, HostPeer):
            self._offer(channel, operation)
        else:
            self._pack(operation)

    def _drain(self, channel: Channel) -> None:
        if isinstance(channel, HostPeer):
            self._see_pulled(channel)
        else:
            self._push(channel)

    def _pack(self, operation: Send) -> None:
        checksum = xxhash.xxh3_64()
        messages = self._blocks.messages(operation.piece)
        for number, message in enumerate(messages, start=1):
            buffer = self._next_buffer()
            memory = self._blocks.pack(message, buffer, checksum)
            sent = self._sent(operation, checksum) if number == len(messages) else None
            self._messages.put(_Packed(memory=memory, buffer=buffer, sent=sent))

    def _push(self, group: Group) -> None:
        in_flight: deque[tuple[Pending, _Packed]] = deque()
        while True:
            packed = self._next_message(wait=not in_flight)
            if packed is not None:
                assert isinstance(packed, _Packed)
                in_flight.append((group.send(packed.memory), packed))
            if packed is None or len(in_flight) > 1:
                self._retire(*in_flight.popleft())

    def _retire(self, pending: Pending, packed: _Packed) -> None:
        pending.wait()
        self._buffers.put(packed.buffer)
        if packed.sent is not None:
            self._report(packed.sent)
        else:
            self._report_progress()

    def _offer(self, peer: HostPeer, operation: Send) -> None:
        peer.say(Offer(sequence=operation.sequence, piece=operation.piece))
        checksum = xxhash.xxh3_64()
        buffer = self._next_buffer()
        for message in self._blocks.messages(operation.piece):
            self._check_open()
            self._blocks.digest(message, buffer, checksum)
        self._buffers.put(buffer)
        self._messages.put(self._sent(operation, checksum))

    def _see_pulled(self, peer: HostPeer) -> None:
        while True:
            sent = self._next_message(wait=True)
            assert isinstance(sent, Sent)
            while not peer.is_pulled(sent.sequence):
                self._report_progress()
            self._report(sent)

    def _sent(self, operation: Send, checksum: xxhash.xxh3_64) -> Sent:
        return Sent(link=self.name, sequence=operation.sequence, checksum=checksum.intdigest())
