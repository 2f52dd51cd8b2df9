"""The sending end of a link."""

from lengthwise_engine.transfer.base import Sent
from lengthwise_engine.transfer.links.base import Outgoing
from lengthwise_engine.transfer.links.link import Link
from lengthwise_engine.transfer.messages import Send


class SendLink(Link[Outgoing]):
    def send(self, command: Send) -> None:
        self._operations.put(Outgoing(command=command))

    def _completed(self, operation: Outgoing) -> None:
        self._report(
            Sent(
                link=self.name,
                sequence=operation.command.sequence,
                checksum=operation.checksum.intdigest(),
            )
        )
