"""Links between workers of one machine: the receiver copies blocks out of the sender's caches.

No message is packed: the sender offers a piece and hashes its own blocks while the receiver copies
them, hashes what it wrote and reports each message that it has.
"""

from collections.abc import Iterator
from functools import partial

from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import check_receive
from lengthwise_engine.transfer.blocks.base import Blocks
from lengthwise_engine.transfer.blocks.open_blocks import open_blocks, pull
from lengthwise_engine.transfer.links.base import Finish, Handshake, Incoming, Outgoing
from lengthwise_engine.transfer.links.pull_channel import PullChannel
from lengthwise_engine.transfer.links.shared_memory import map_memory, offer_memory
from lengthwise_engine.transfer.messages import Offer, Pulled


class PullLinkKind:
    def open_sender(self, handshake: Handshake) -> "PullSender":
        setup = handshake.setup
        offer_memory(handshake.store, setup.shards if setup.shared_memory else None)
        return PullSender(_channel(handshake), handshake.blocks)

    def open_receiver(self, handshake: Handshake) -> "PullReceiver":
        setup = handshake.setup
        layout = setup.shards.layout
        device = handshake.device if setup.shared_memory else None
        shards, caches = map_memory(handshake.store, layout, device)
        source = open_blocks(layout, caches)
        return PullReceiver(_channel(handshake), handshake.blocks, shards, source)


def _channel(handshake: Handshake) -> PullChannel:
    return PullChannel(handshake.connection, handshake.setup.stall_seconds)


class _PullEnd:
    path = "shared memory"

    def __init__(self, channel: PullChannel, blocks: Blocks) -> None:
        self._channel = channel
        self._blocks = blocks
        self._scratch = blocks.new_buffer()

    def receive_data(self, data: bytes) -> None:
        self._channel.receive_data(data)

    def close(self) -> None:
        self._channel.close()


class PullSender(_PullEnd):
    def begin(self, operation: Outgoing) -> Iterator[Finish]:
        command = operation.command
        self._channel.send(Offer(sequence=command.sequence, piece=command.piece))
        for message in self._blocks.messages(command.piece):
            self._blocks.digest(message, self._scratch, operation.checksum)
            yield partial(self._channel.wait_pulled, command.sequence)


class PullReceiver(_PullEnd):
    def __init__(
        self, channel: PullChannel, blocks: Blocks, shards: KVShards, source: Blocks
    ) -> None:
        """`shards` describe the sender's caches, `source` are those as seen from here."""
        super().__init__(channel, blocks)
        self._shards = shards
        self._source = source

    def begin(self, operation: Incoming) -> Iterator[Finish]:
        command, source = operation.command, self._source
        offered = self._channel.next_offer(command.sequence)
        check_receive(offered, command.num_bytes, self._shards.layout, self._shards.num_blocks)
        origins, piece = source.messages(offered), command.piece
        messages = [None] * len(origins) if piece is None else self._blocks.messages(piece)
        for origin, message in zip(origins, messages, strict=True):
            buffer, checksum = self._scratch, operation.checksum
            if message is None:
                source.digest(origin, buffer, checksum)
            else:
                pull(source, origin, self._blocks, message, buffer, checksum, operation.gate)
            yield partial(self._channel.send, Pulled(sequence=command.sequence))
