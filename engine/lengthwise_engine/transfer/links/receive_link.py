"""The receiving end of a link: pieces that are still wanted, and those that are not any more.

Invariant: a receive's gate is the one lock between writing its bytes into the cache and dropping
it.
"""

from typing import Any

from lengthwise_engine.transfer.base import Received
from lengthwise_engine.transfer.links.base import Incoming
from lengthwise_engine.transfer.links.link import Link
from lengthwise_engine.transfer.messages import Receive


class ReceiveLink(Link[Incoming]):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outstanding: dict[int, Incoming] = {}

    def receive(self, command: Receive) -> None:
        incoming = Incoming(command=command)
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

    def _completed(self, operation: Incoming) -> None:
        command = operation.command
        with self._lock:
            self._outstanding.pop(command.sequence)
        self._report(
            Received(
                link=self.name,
                sequence=command.sequence,
                key=command.key,
                checksum=operation.checksum.intdigest(),
            )
        )
