"""One link, one direction, one thread: operations in, bytes moved in order, events out.

The rules:
* The link's thread alone touches its process group, and waits in it for at most `stall_seconds`.
* A link goes down once. From then on it says nothing and writes to no block, even while its thread
  still waits inside the process group (gloo cannot be interrupted there; measured with torch 2.13,
  `abort` and `shutdown` of ProcessGroupGloo wake nobody): bytes arrive in the link's own buffers,
  and only `_Incoming.write` moves them on into the cache.
"""

import queue
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import torch
import xxhash

from lengthwise_engine.transfer.base import LinkDown, LinkUp, Received, Sent, TransferEvent
from lengthwise_engine.transfer.blocks import BlockRows, RowSpan, update_checksum
from lengthwise_engine.transfer.frames import Progress, Receive, Send
from lengthwise_engine.transfer.process_group import Group, Pending

# Messages in flight per link: one moves while the other is packed or unpacked.
_NUM_BUFFERS: Final = 2
_PROGRESS_SECONDS: Final = 1.0
_MAX_REASON: Final = 300

Tell = Callable[[TransferEvent | Progress], None]
# Builds the group, on the link's thread; hands over the lifeline as soon as there is one.
Open = Callable[[Callable[[socket.socket], None]], Group]


Operation = TypeVar("Operation")


class _Closed(Exception):
    """The link went down while its thread was busy or waited for work."""


class Link(ABC, Generic[Operation]):
    """`tell` is called from any thread; `ended` once, from the link's thread, as its last act."""

    def __init__(
        self,
        name: str,
        rows: BlockRows,
        open_group: Open,
        tell: Tell,
        ended: "Callable[[Link[Operation]], None]",
    ) -> None:
        self.name = name
        self.lifeline: socket.socket | None = None
        self._rows = rows
        self._open_group = open_group
        self._tell = tell
        self._ended = ended
        self._told_at = time.monotonic()
        self._down = False
        self._lock = threading.Lock()
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._buffers: list[torch.Tensor] = []
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
        self._operations.put(None)

    @abstractmethod
    def _move(self, group: Group) -> None:
        """Carry out operations until one fails or the link is closed."""

    def _abandon(self) -> None:
        """Give up the operations that are outstanding; called with the lock held."""

    def _own(self) -> None:
        try:
            group = self._open_group(self._hold)
            self._report(LinkUp(link=self.name))
            self._buffers = [self._rows.new_buffer() for _ in range(_NUM_BUFFERS)]
            self._move(group)
        except _Closed:
            return
        except Exception as error:
            # Whatever went wrong, a peer or a bug: the link is over, and its user learns why.
            self.take_down(f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_REASON])
        finally:
            self._ended(self)

    def _hold(self, lifeline: socket.socket) -> None:
        with self._lock:
            self.lifeline = lifeline
            if self._down:
                _hang_up(lifeline)

    def _report(self, event: TransferEvent | Progress) -> None:
        with self._lock:
            if self._down:
                raise _Closed
            self._told_at = time.monotonic()
            self._tell(event)

    def _report_progress(self) -> None:
        if time.monotonic() - self._told_at > _PROGRESS_SECONDS:
            self._report(Progress(link=self.name))

    def _next_operation(self, *, wait: bool) -> Operation | None:
        """Raises _Closed when the link went down. Without `wait`, None when there is none yet."""
        try:
            operation = self._operations.get(block=wait)
        except queue.Empty:
            return None
        if operation is None:
            raise _Closed
        return operation


def _hang_up(lifeline: socket.socket) -> None:
    try:
        lifeline.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer hung up first


class _Outgoing:
    """A send under way."""

    def __init__(self, command: Send, rows: BlockRows) -> None:
        self.sequence = command.sequence
        self.row_ids = rows.row_ids(command.piece)
        self.checksum = xxhash.xxh3_64()


class SendLink(Link[Send]):
    def send(self, command: Send) -> None:
        self._operations.put(command)

    def _move(self, group: Group) -> None:
        in_flight: deque[tuple[Pending, _Outgoing, bool]] = deque()
        num_messages = 0
        while True:
            command = self._next_operation(wait=not in_flight)
            if command is None:
                self._retire(in_flight)
                continue
            outgoing = _Outgoing(command, self._rows)
            for span in self._rows.spans(len(outgoing.row_ids)):
                if len(in_flight) == _NUM_BUFFERS:
                    self._retire(in_flight)
                buffer = self._buffers[num_messages % _NUM_BUFFERS]
                num_messages += 1
                rows = self._pack(outgoing, span, buffer)
                in_flight.append((group.send(rows), outgoing, span.is_last))

    def _retire(self, in_flight: deque[tuple[Pending, _Outgoing, bool]]) -> None:
        pending, outgoing, is_last = in_flight[0]
        pending.wait()
        in_flight.popleft()
        if is_last:
            checksum = outgoing.checksum.intdigest()
            self._report(Sent(link=self.name, sequence=outgoing.sequence, checksum=checksum))
        else:
            self._report_progress()

    def _pack(self, outgoing: _Outgoing, span: RowSpan, buffer: torch.Tensor) -> torch.Tensor:
        """The rows of one message: where they lie if they lie in order, else gathered."""
        row_ids = outgoing.row_ids[span.start : span.stop]
        in_place = self._rows.contiguous(row_ids)
        rows = buffer[: len(row_ids)] if in_place is None else in_place
        for chunk in self._rows.chunks(len(row_ids)):
            if in_place is None:
                self._rows.gather(row_ids[chunk], rows[chunk])
            update_checksum(outgoing.checksum, rows[chunk])
        return rows


class _Incoming:
    """A receive under way; `drop` turns it into one that leaves the cache alone."""

    def __init__(self, command: Receive, rows: BlockRows) -> None:
        self.sequence = command.sequence
        self.key = command.key
        self.num_rows = command.num_bytes // rows.block_bytes
        self.checksum = xxhash.xxh3_64()
        self._rows = rows
        self._row_ids = None if command.piece is None else rows.row_ids(command.piece)
        self._lock = threading.Lock()

    def write(self, start: int, rows: torch.Tensor) -> None:
        with self._lock:
            if self._row_ids is not None:
                self._rows.scatter(self._row_ids[start : start + len(rows)], rows)

    def drop(self) -> None:
        with self._lock:
            self._row_ids = None


class ReceiveLink(Link[_Incoming]):
    def __init__(
        self,
        name: str,
        rows: BlockRows,
        open_group: Open,
        tell: Tell,
        ended: Callable[[Link[_Incoming]], None],
    ) -> None:
        super().__init__(name, rows, open_group, tell, ended)
        self._outstanding: dict[int, _Incoming] = {}

    def receive(self, command: Receive) -> None:
        incoming = _Incoming(command, self._rows)
        with self._lock:
            if self._down:
                return
            self._outstanding[command.sequence] = incoming
        self._operations.put(incoming)

    def discard(self, key: str) -> None:
        """On return no receive of this key that was asked for so far writes to the cache."""
        with self._lock:
            for incoming in self._outstanding.values():
                if incoming.key == key:
                    incoming.drop()

    def _abandon(self) -> None:
        for incoming in self._outstanding.values():
            incoming.drop()

    def _move(self, group: Group) -> None:
        posted: deque[tuple[Pending, _Incoming, RowSpan, torch.Tensor]] = deque()
        num_messages = 0
        while True:
            incoming = self._next_operation(wait=not posted)
            if incoming is None:
                self._unpack(posted)
                continue
            for span in self._rows.spans(incoming.num_rows):
                if len(posted) == _NUM_BUFFERS:
                    self._unpack(posted)
                buffer = self._buffers[num_messages % _NUM_BUFFERS]
                num_messages += 1
                rows = buffer[: span.stop - span.start]
                posted.append((group.recv(rows), incoming, span, rows))

    def _unpack(self, posted: deque[tuple[Pending, _Incoming, RowSpan, torch.Tensor]]) -> None:
        pending, incoming, span, rows = posted[0]
        pending.wait()
        posted.popleft()
        for chunk in self._rows.chunks(len(rows)):
            update_checksum(incoming.checksum, rows[chunk])
            incoming.write(span.start + chunk.start, rows[chunk])
        if not span.is_last:
            self._report_progress()
            return
        with self._lock:
            del self._outstanding[incoming.sequence]
        self._report(
            Received(
                link=self.name,
                sequence=incoming.sequence,
                key=incoming.key,
                checksum=incoming.checksum.intdigest(),
            )
        )
