"""The messages between the two ends of a pull link, over the connection that built the link.

The sender offers pieces, the receiver reports every message that it copied. The thread that reads
the connection only hands over what it read; what waits for the peer waits `stall_seconds` at most.
"""

import queue
import socket
from typing import Final

from lengthwise_engine.transfer.base import Piece
from lengthwise_engine.transfer.frames import FrameError, FrameReader, frame
from lengthwise_engine.transfer.messages import OFFER_OR_PULLED, Offer, Pulled

MAX_UNREAD: Final = 65_536
"""Messages that may wait for the link's threads: one for each piece outstanding, which are 64 at
most, or for 4 MiB of it. A peer that is so far ahead does not keep to the protocol."""

_MAX_FRAME_BYTES: Final = 16 * 2**20
"""An offer of two million blocks."""


class PullChannel:
    def __init__(self, connection: socket.socket, stall_seconds: float) -> None:
        self._connection = connection
        self._stall_seconds = stall_seconds
        self._reader = FrameReader(OFFER_OR_PULLED, _MAX_FRAME_BYTES)
        # None: the link is down.
        self._unread: queue.SimpleQueue[Offer | Pulled | None] = queue.SimpleQueue()
        connection.settimeout(stall_seconds)

    def send(self, message: Offer | Pulled) -> None:
        """Raises OSError when the peer is gone or does not read."""
        self._connection.sendall(frame(message))

    def receive_data(self, data: bytes) -> None:
        """What came over the connection. Raises FrameError when it breaks the protocol, or is more
        than may wait."""
        for message in self._reader.feed(data):
            if self._unread.qsize() >= MAX_UNREAD:
                raise FrameError(f"{MAX_UNREAD} messages of the peer wait")
            self._unread.put(message)

    def next_offer(self, sequence: int) -> Piece:
        """What the sender offers under this number. Raises FrameError for anything else."""
        received = self._next()
        if not isinstance(received, Offer) or received.sequence != sequence:
            raise FrameError(f"expected the offer of piece {sequence}, got {received}")
        return received.piece

    def wait_pulled(self, sequence: int) -> None:
        """Until one more message of the piece is copied. Raises FrameError for anything else."""
        received = self._next()
        if not isinstance(received, Pulled) or received.sequence != sequence:
            raise FrameError(f"expected the pull of piece {sequence}, got {received}")

    def close(self) -> None:
        """Wake up what waits for the peer."""
        self._unread.put(None)

    def _next(self) -> Offer | Pulled:
        """Raises TimeoutError when the peer stalls, ConnectionError when the link is down."""
        try:
            received = self._unread.get(timeout=self._stall_seconds)
        except queue.Empty:
            raise TimeoutError(f"the peer sent nothing for {self._stall_seconds:g} s") from None
        if received is None:
            raise ConnectionError("the link went down")
        return received
