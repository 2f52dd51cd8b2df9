"""The sending end of a link: blocks are packed and hashed while the message before them moves."""

from collections import deque
from dataclasses import dataclass

import torch
import xxhash

from lengthwise_engine.transfer.base import Sent
from lengthwise_engine.transfer.blocks import Buffer
from lengthwise_engine.transfer.frames import Send
from lengthwise_engine.transfer.link import Link
from lengthwise_engine.transfer.process_group import Group, Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """A message that is ready to be sent."""

    memory: torch.Tensor
    buffer: Buffer
    sent: Sent | None  # what to report after the last message of a piece


class SendLink(Link[Send, _Packed]):
    def send(self, command: Send) -> None:
        self._operations.put(command)

    def _feed(self, group: Group, operation: Send) -> None:
        checksum = xxhash.xxh3_64()
        messages = self._blocks.messages(operation.piece)
        for number, message in enumerate(messages, start=1):
            buffer = self._next_buffer()
            memory = self._blocks.pack(message, buffer, checksum)
            sent = None
            if number == len(messages):
                digest = checksum.intdigest()
                sent = Sent(link=self.name, sequence=operation.sequence, checksum=digest)
            self._messages.put(_Packed(memory=memory, buffer=buffer, sent=sent))

    def _drain(self, group: Group) -> None:
        in_flight: deque[tuple[Pending, _Packed]] = deque()
        while True:
            packed = self._next_message(wait=not in_flight)
            if packed is not None:
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
