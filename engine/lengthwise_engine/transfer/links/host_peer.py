"""The other end of a host link, whose caches are mapped here or which has ours mapped.

Bytes do not pass between the two: the sender offers pieces, the receiver copies them out of the
sender's caches and says how far it is, both over the connection that built the link.

The rule: the thread that reads the connection only hands over what it read; those who wait for the
peer wait `stall_seconds` at most.
"""

import queue
import socket
from dataclasses import dataclass
from typing import Any, Final

from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import Piece, check_receive
from lengthwise_engine.transfer.blocks.base import Blocks
from lengthwise_engine.transfer.frames import (
    FrameError,
    FrameReader,
    Offer,
    Pulled,
    frame,
    message,
)

MAX_HEARD: Final = 65_536
"""Messages that may wait for the link's threads: one for each piece outstanding, which are 64 at
most, or for 4 MiB of it. A peer that is so far ahead does not keep to the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The sender's caches as the receiver sees them."""

    shards: KVShards
    blocks: Blocks


class HostPeer:
    def __init__(
        self, connection: socket.socket, stall_seconds: float, source: Source | None
    ) -> None:
        """`source` None: this end is the sender."""
        self.source = source
        self._connection = connection
        self._stall_seconds = stall_seconds
        self._reader = FrameReader()
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()  # None: the link is down
        connection.settimeout(stall_seconds)

    def say(self, what: Offer | Pulled) -> None:
        """Raises OSError when the peer is gone or does not listen."""
        self._connection.sendall(frame(what))

    def hear(self, data: bytes) -> None:
        """What came over the connection. Raises FrameError when it is not this protocol, or more
        than anybody takes."""
        for value in self._reader.feed(data):
            if self._heard.qsize() >= MAX_HEARD:
                raise FrameError(f"{MAX_HEARD} messages of the peer wait")
            self._heard.put(message(value))

    def next_offer(self, sequence: int, num_bytes: int) -> Piece:
        """What the sender offers under this number, which its caches have and which has as many
        bytes. Raises FrameError or ValueError for anything else."""
        heard = self._next()
        if not isinstance(heard, Offer) or heard.sequence != sequence:
            raise FrameError(f"expected the offer of piece {sequence}, got {heard}")
        assert self.source is not None
        shards = self.source.shards
        check_receive(heard.piece, num_bytes, shards.layout, shards.num_blocks)
        return heard.piece

    def is_pulled(self, sequence: int) -> bool:
        """Wait for another message of the piece to be pulled; whether it was the last one. Raises
        FrameError when something else came."""
        heard = self._next()
        if not isinstance(heard, Pulled) or heard.sequence != sequence:
            raise FrameError(f"expected the pull of piece {sequence}, got {heard}")
        return heard.is_last

    def hang_up(self) -> None:
        """Wake up whoever waits for the peer."""
        self._heard.put(None)

    def _next(self) -> object:
        """Raises TimeoutError when the peer stalls, ConnectionError when the link is down."""
        try:
            heard = self._heard.get(timeout=self._stall_seconds)
        except queue.Empty:
            raise TimeoutError(f"the peer said nothing for {self._stall_seconds:g} s") from None
        if heard is None:
            raise ConnectionError("the link went down")
        return heard
