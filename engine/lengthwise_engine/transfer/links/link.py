"""One link: one direction, two threads, operations in, bytes moved in order, events out.

The rules:
* The two threads form a pipeline over a few message buffers, so that one message is packed or
  unpacked while another one moves: `feed` takes operations and fills the pipeline, `drain` empties
  it. (One thread is as fast on idle cores. On two busy ones it reached a half, with messages of
  1 MiB: a gloo thread that finds its connection locked spins until it is not.)
* The bytes go through a process group, or the receiver copies them out of the sender's memory
  (`HostPeer`); every wait for the other end is bounded by `stall_seconds`, and what raised ends the
  link.
* A link goes down once. From then on it says nothing and writes to no block, even while a thread of
  its still waits inside the process group (gloo cannot be interrupted there: `abort` and `shutdown`
  of torch 2.13's ProcessGroupGloo wake nobody): bytes arrive in the link's own buffers, and only
  the gate of a receive lets them pass into the cache.
"""

import queue
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from lengthwise_engine.transfer.base import LinkDown, LinkUp, TransferEvent
from lengthwise_engine.transfer.blocks.base import Blocks, Buffer
from lengthwise_engine.transfer.frames import FrameError, Progress
from lengthwise_engine.transfer.links.host_peer import HostPeer
from lengthwise_engine.transfer.links.process_group import Group

NUM_BUFFERS: Final = 3
_PROGRESS_SECONDS: Final = 1.0
_MAX_REASON: Final = 300

Tell = Callable[[TransferEvent | Progress], None]
Channel = Group | HostPeer
# Builds the channel, on the link's thread, and says in words what it is; hands over the lifeline as
# soon as there is one.
Open = Callable[[Callable[[socket.socket], None]], tuple[Channel, str]]

Operation = TypeVar("Operation")
Message = TypeVar("Message")


class LinkClosed(Exception):
    """The link went down while a thread of its was busy or waited for work."""


class Link(ABC, Generic[Operation, Message]):
    """`tell` is called from any thread; `ended` once, as the link's last act."""

    def __init__(
        self,
        name: str,
        blocks: Blocks,
        open_channel: Open,
        tell: Tell,
        ended: "Callable[[Link[Any, Any]], None]",
    ) -> None:
        self.name = name
        self.lifeline: socket.socket | None = None
        self._blocks = blocks
        self._open_channel = open_channel
        self._peer: HostPeer | None = None
        self._tell = tell
        self._ended = ended
        self._told_at = time.monotonic()
        self._down = False
        self._lock = threading.Lock()
        # None in a queue means that the link is down.
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._buffers: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._own, name=f"link {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take_down(self, reason: str) -> None:
        """From any thread. Nothing reaches the cache or the events for this link afterwards."""
        with self._lock:
            if self._down:
                return
            self._down = True
            self._abandon()
            if self.lifeline is not None:
                _hang_up(self.lifeline)
            self._tell(LinkDown(link=self.name, reason=reason))
        if self._peer is not None:
            self._peer.hang_up()
        self._operations.put(None)
        self._messages.put(None)
        self._buffers.put(None)

    def hear(self, data: bytes) -> None:
        """What came over the lifeline; not from a thread of the link's."""
        if self._peer is not None:
            try:
                self._peer.hear(data)
            except FrameError as error:
                self.take_down(str(error))

    @abstractmethod
    def _feed(self, channel: Channel, operation: Operation) -> None:
        """Put one operation's messages into the pipeline."""

    @abstractmethod
    def _drain(self, channel: Channel) -> None:
        """Take messages out of the pipeline until the link is closed."""

    def _abandon(self) -> None:
        """Give up the operations that are outstanding; called with the lock held."""

    def _own(self) -> None:
        feeder: threading.Thread | None = None
        with _Ending(self):
            channel, path = self._open_channel(self._hold)
            for _ in range(NUM_BUFFERS):
                self._buffers.put(self._blocks.new_buffer())
            self._peer = channel if isinstance(channel, HostPeer) else None
            self._report(LinkUp(link=self.name, path=path))
            feeder = threading.Thread(
                target=self._feed_all, args=(channel,), name=f"{self.name} feed", daemon=True
            )
            feeder.start()
            self._drain(channel)
        if feeder is not None:
            feeder.join()  # the link is down, so it ends with the message it is at
        self._ended(self)

    def _feed_all(self, channel: Channel) -> None:
        with _Ending(self):
            while True:
                self._feed(channel, _next(self._operations))

    def _hold(self, lifeline: socket.socket) -> None:
        with self._lock:
            self.lifeline = lifeline
            if self._down:
                _hang_up(lifeline)

    def _next_buffer(self) -> Buffer:
        return _next(self._buffers)

    def _next_message(self, *, wait: bool) -> Message | None:
        """Without `wait`, None when there is none yet."""
        try:
            return _next(self._messages, wait=wait)
        except queue.Empty:
            return None

    def _report(self, event: TransferEvent | Progress) -> None:
        with self._lock:
            if self._down:
                raise LinkClosed
            self._told_at = time.monotonic()
            self._tell(event)

    def _check_open(self) -> None:
        """Raises LinkClosed when the link is down."""
        if self._down:
            raise LinkClosed

    def _report_progress(self) -> None:
        if time.monotonic() - self._told_at > _PROGRESS_SECONDS:
            self._report(Progress(link=self.name))


class _Ending:
    """What ends a thread of a link: closing, or anything that went wrong, which its user learns."""

    def __init__(self, link: Link[Any, Any]) -> None:
        self._link = link

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, Exception) and not isinstance(error, LinkClosed):
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_REASON]
            self._link.take_down(reason)
        return isinstance(error, Exception)


Item = TypeVar("Item")


def _next(items: "queue.SimpleQueue[Item | None]", *, wait: bool = True) -> Item:
    """Raises LinkClosed when the link is down, queue.Empty when there is nothing to wait for."""
    item = items.get(block=wait)
    if item is None:
        raise LinkClosed
    return item


def _hang_up(lifeline: socket.socket) -> None:
    try:
        lifeline.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer hung up first
