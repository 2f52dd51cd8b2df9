"""One link to one decode worker: a gRPC control stream that announces, in order, what the data link
carries, and the data link itself, which the transfer process owns.

Frames and sends are issued together, on the event loop, so both have the same order. A link that
failed is thrown away; the next request to the same worker opens another under a new name.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache

import grpc

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import KVSender, Piece
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_wire.errors import TransferFailed
from lengthwise_wire.v1 import decode_pb2, decode_pb2_grpc

logger = logging.getLogger(__name__)

MAX_OUTSTANDING = 16
"""Sends issued and not yet taken; the rest waits here, where a cancel can drop it unsent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """A piece on its way and its announcement, which has no sequence number until it is issued."""

    piece: Piece
    announce: decode_pb2.Announce
    wanted: Callable[[], bool]
    """False: its request was cancelled, and the piece is dropped if it has not been issued."""
    sent: Callable[[int], None]
    """Called with the checksum once the source blocks may be reused."""
    dropped: Callable[[], None]


class DecodeLink:
    """Life: `open`, then `push` and `commit` at will, then `close` (also called on failure)."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        identity: decode_pb2.TransferHello,
        sender: KVSender,
        layout: KVLayout,
        tls: TlsConfig | None,
        on_committed: Callable[[decode_pb2.Committed], None],
        on_down: Callable[["DecodeLink", str], None],
    ) -> None:
        """`identity`: this worker's part of the handshake; the link's name is added.
        Errors: TransferFailed when files of TLS cannot be used."""
        self.name = name
        self.down_reason: str | None = None
        self._address = address
        self._identity = identity
        self._sender = sender
        self._layout = layout
        try:
            self._channel = open_channel(address, tls)
        except ConfigError as error:
            raise TransferFailed(f"no KV link to {address}: {error}") from error
        self._is_secure = tls is not None
        self._on_committed = on_committed
        self._on_down = on_down
        self._decided = asyncio.Event()  # whether the link is up or down
        self._frames: deque[decode_pb2.TransferFrame] = deque()
        self._frames_changed = asyncio.Event()
        self._waiting: deque[Announced] = deque()
        self._outstanding: deque[Announced] = deque()
        self._sequence = 0
        self._control: asyncio.Task[None] | None = None

    async def open(self, timeout_seconds: float) -> None:
        """Handshake and rendezvous. Errors: TransferFailed."""
        self._control = asyncio.create_task(self._run_control(), name=f"control {self.name}")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._decided.wait()
        except TimeoutError:
            self.close(f"no link to {self._address} within {timeout_seconds} s")
        if self.down_reason is not None:
            raise TransferFailed(f"no KV link to {self._address}: {self.down_reason}")

    def push(self, announced: Announced) -> None:
        """Queues a piece; one of its callbacks follows, unless the link goes down."""
        self._waiting.append(announced)
        self.issue()

    def commit(self, commit: decode_pb2.Commit) -> None:
        self._send_frame(decode_pb2.TransferFrame(commit=commit))

    def link_up(self, path: str) -> None:
        """From the transfer process: the data link is up, and how its bytes go."""
        logger.info("link %s is up: %s", self.name, path)
        if self._is_secure and not path.startswith("shared memory"):
            _warn_of_plain_bytes()
        self._decided.set()

    def sent(self, checksum: int) -> None:
        """From the transfer process: the blocks of the oldest outstanding piece may be reused."""
        self._outstanding.popleft().sent(checksum)
        self.issue()

    def close(self, reason: str) -> None:
        """Ends the link; its requests are failed by `on_down`. Safe to call again."""
        if self.down_reason is not None:
            return
        self.down_reason = reason
        self._sender.close(self.name)
        if self._control is not None:
            self._control.cancel()
        self._decided.set()
        self._waiting.clear()
        self._outstanding.clear()
        self._on_down(self, reason)

    async def closed(self) -> None:
        """Waits until the control stream's task and channel are gone."""
        if self._control is not None:
            await asyncio.gather(self._control, return_exceptions=True)
        await self._channel.close(None)

    def issue(self) -> None:
        """Sends what waits, as far as there is room, and drops what is not wanted any more."""
        while self._waiting:
            if not self._waiting[0].wanted():
                self._waiting.popleft().dropped()
                continue
            if len(self._outstanding) == MAX_OUTSTANDING:
                return
            announced = self._waiting.popleft()
            announced.announce.sequence = self._sequence
            announced.announce.num_bytes = announced.piece.num_bytes(self._layout)
            self._send_frame(decode_pb2.TransferFrame(announce=announced.announce))
            self._sender.send(self.name, self._sequence, announced.piece)
            self._sequence += 1
            self._outstanding.append(announced)

    def _send_frame(self, frame: decode_pb2.TransferFrame) -> None:
        self._frames.append(frame)
        self._frames_changed.set()

    async def _requests(self) -> AsyncIterator[decode_pb2.TransferFrame]:
        hello = decode_pb2.TransferFrame(hello=self._identity)
        hello.hello.link = self.name
        yield hello
        while True:
            await self._frames_changed.wait()
            self._frames_changed.clear()
            while self._frames:
                yield self._frames.popleft()

    async def _run_control(self) -> None:
        """Reads the decode worker's replies; the end of the stream is the end of the link."""
        try:
            stub = decode_pb2_grpc.DecodeWorkerStub(self._channel)
            async for reply in stub.Transfer(self._requests()):
                if reply.WhichOneof("reply") == "accepted":
                    self._sender.connect(self.name, reply.accepted.rendezvous)
                else:
                    self._on_committed(reply.committed)
            reason = "the decode worker ended the control stream"
        except grpc.aio.AioRpcError as error:
            reason = f"control stream: {error.code().name}: {error.details()}"
        except asyncio.CancelledError:
            if self.down_reason is None:
                raise
            return
        logger.info("link %s is down: %s", self.name, reason)
        self.close(reason)


@cache
def _warn_of_plain_bytes() -> None:
    """Once: where TLS is on, it is expected to cover them."""
    logger.warning(
        "KV goes to other machines unencrypted: tls covers gRPC, and with it who may open a link;"
        " encrypt the network between workers, see docs/operations.md"
    )
