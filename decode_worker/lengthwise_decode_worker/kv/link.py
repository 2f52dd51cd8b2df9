"""One link from one prefill worker: its control stream, as the data link's other side."""

import asyncio
from collections import deque

from lengthwise_wire.errors import TransferFailed
from lengthwise_wire.v1 import decode_pb2

MAX_OUTSTANDING = 64
"""Receives issued per link; further announcements wait unread in the control stream."""


class PrefillLink:
    """`replies` are for the control stream; `changed` is set when one was added or the link went
    down."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.replies: deque[decode_pb2.TransferReply] = deque()
        self.changed = asyncio.Event()
        self.room = asyncio.Semaphore(MAX_OUTSTANDING)
        self.down_reason: str | None = None

    def accept(self, rendezvous: str) -> None:
        """Answers the handshake."""
        accepted = decode_pb2.TransferAccepted(rendezvous=rendezvous)
        self._reply(decode_pb2.TransferReply(accepted=accepted))

    def answer(self, commit: decode_pb2.Commit, error: str) -> None:
        """`error` is empty where all KV has arrived intact."""
        committed = decode_pb2.Committed(
            reservation=commit.reservation,
            router_id=commit.router_id,
            epoch=commit.epoch,
            error=error,
        )
        self._reply(decode_pb2.TransferReply(committed=committed))

    def lost(self, reason: str) -> None:
        """The data link is down."""
        self.down_reason = reason
        self.changed.set()
        self.room.release()

    @property
    def failure(self) -> TransferFailed | None:
        """None while it is up."""
        if self.down_reason is None:
            return None
        return TransferFailed(f"the KV link {self.name} is down: {self.down_reason}")

    def _reply(self, reply: decode_pb2.TransferReply) -> None:
        self.replies.append(reply)
        self.changed.set()
