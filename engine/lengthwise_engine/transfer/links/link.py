"""One link: one direction, two threads, operations in, bytes moved in order, events out.

* The two threads form a pipeline: `feed` begins operations, `drain` finishes their messages. (One
  thread is as fast on idle cores. On two busy ones it reached a half, with messages of 1 MiB: a
  gloo thread that finds its connection locked spins until it is not.)
* Every wait for the peer is bounded by `stall_seconds`, and any error ends the link.

Invariant: a link goes down once. From then on it reports nothing and writes to no block, even while
one of its threads still waits inside a library that cannot be interrupted.
"""

import queue
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from lengthwise_engine.transfer.base import LinkDown, LinkUp
from lengthwise_engine.transfer.frames import FrameError
from lengthwise_engine.transfer.links.base import Finish, LinkClosed, LinkEnd
from lengthwise_engine.transfer.messages import Progress, Report

_PROGRESS_SECONDS: Final = 1.0
_MAX_REASON: Final = 300

Operation = TypeVar("Operation")

Notify = Callable[[Report], None]
KeepLifeline = Callable[[socket.socket], None]
OpenEnd = Callable[[KeepLifeline], tuple[LinkEnd[Operation], str]]
"""Builds the end, on the link's thread; also returns how its bytes go, in words. Hands over the
lifeline (the connection to the peer, open as long as the link is) as soon as there is one."""


class Link(ABC, Generic[Operation]):
    """`notify` is called from any thread; `ended` once, as the link's last act."""

    def __init__(
        self,
        name: str,
        open_end: OpenEnd[Operation],
        notify: Notify,
        ended: "Callable[[Link[Any]], None]",
    ) -> None:
        self.name = name
        self.lifeline: socket.socket | None = None
        self._open_end = open_end
        self._end: LinkEnd[Operation] | None = None
        self._notify = notify
        self._ended = ended
        self._reported_at = time.monotonic()
        self._down = False
        self._lock = threading.Lock()
        # None in a queue means that the link is down.
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._moving: queue.SimpleQueue[Finish | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)

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
                _shut_down(self.lifeline)
            self._notify(LinkDown(link=self.name, reason=reason))
        if self._end is not None:
            self._end.close()
        self._operations.put(None)
        self._moving.put(None)

    def receive_data(self, data: bytes) -> None:
        """What came over the lifeline; not from a thread of the link's."""
        if self._end is not None:
            try:
                self._end.receive_data(data)
            except FrameError as error:
                self.take_down(str(error))

    @abstractmethod
    def _completed(self, operation: Operation) -> None:
        """All messages of the operation have moved: report it."""

    def _abandon(self) -> None:
        """Give up the operations that are outstanding; called with the lock held."""

    def _run(self) -> None:
        feeder: threading.Thread | None = None
        with _Ending(self):
            end, path = self._open_end(self._keep_lifeline)
            self._end = end
            self._report(LinkUp(link=self.name, path=path))
            feeder = threading.Thread(
                target=self._feed, args=(end,), name=f"{self.name} feed", daemon=True
            )
            feeder.start()
            self._drain()
        if feeder is not None:
            feeder.join()  # the link is down, so it ends with the message it is at
        self._ended(self)

    def _feed(self, end: LinkEnd[Operation]) -> None:
        with _Ending(self):
            while True:
                operation = _next(self._operations)
                self._check_open()
                for finish in end.begin(operation):
                    self._moving.put(finish)
                    self._check_open()
                self._moving.put(partial(self._completed, operation))

    def _drain(self) -> None:
        while True:
            _next(self._moving)()
            if time.monotonic() - self._reported_at > _PROGRESS_SECONDS:
                self._report(Progress(link=self.name))

    def _keep_lifeline(self, lifeline: socket.socket) -> None:
        with self._lock:
            self.lifeline = lifeline
            if self._down:
                _shut_down(lifeline)

    def _report(self, event: Report) -> None:
        with self._lock:
            self._check_open()
            self._reported_at = time.monotonic()
            self._notify(event)

    def _check_open(self) -> None:
        if self._down:
            raise LinkClosed


class _Ending:
    """What ends a thread of a link: closing, or any error, which becomes the link's reason."""

    def __init__(self, link: Link[Any]) -> None:
        self._link = link

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception) and not isinstance(error, LinkClosed):
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:_MAX_REASON]
            # Paths in messages of the system need not be text.
            self._link.take_down(reason.encode(errors="replace").decode())
        return isinstance(error, Exception)


Item = TypeVar("Item")


def _next(items: "queue.SimpleQueue[Item | None]") -> Item:
    """Raises LinkClosed when the link is down."""
    item = items.get()
    if item is None:
        raise LinkClosed
    return item


def _shut_down(lifeline: socket.socket) -> None:
    try:
        lifeline.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer did so first
