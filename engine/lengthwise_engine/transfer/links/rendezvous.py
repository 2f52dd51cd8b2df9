"""How the two ends of a link find each other: one TCP connection per link, dialled by the sender.

It first carries the link's name, which is secret until then: workers agree on it over gRPC, behind
its TLS. Whatever does not know the name of an awaited link gets no further. Then come the few
values a process group exchanges to come up (`PairStore`), and then nothing: it stays open as the
link's lifeline, so that either end learns at once when the other closed the link or died, even
when no bytes are moving.

Why not `TCPStore`, measured with torch 2.13: its constructor waits without limit for a server that
accepts but does not answer (a frozen peer), and client and server look up every peer's address in
the reverse DNS, so that one lost DNS packet stalls all rendezvous for 5 s.
"""

import errno
import logging
import queue
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from msgspec.json import Decoder
from torch._C._distributed_c10d import Store

from lengthwise_engine.transfer.frames import FrameError, FrameReader, frame

_log = logging.getLogger(__name__)

_READ_BYTES: Final = 4096
_ACCEPTED: Final = "accepted"
# Connections that named no link yet, and those that named one that is not accepted yet: one more
# closes the oldest, so that callers that only wait keep out none that names its link at once.
_MAX_WAITING: Final = 256
# Of a link's name, at most 256 characters, and of a value in a `PairStore`, whose longest are the
# handles of a GPU's memory; and how many values the peer may set.
_MAX_NAME_BYTES: Final = 2048
_MAX_VALUE_BYTES: Final = 2**18
_MAX_VALUES: Final = 64
_NAME: Final[Decoder[str]] = Decoder(str)
_VALUE: Final[Decoder[tuple[str, str]]] = Decoder(tuple[str, str])
# `accept` cannot have a file descriptor, or the memory for one; what is closed frees some.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS: Final = 0.5  # after an `accept` that found no file descriptor
_WARNING_SECONDS: Final = 10.0  # between two warnings of that


class PairStore(Store):
    """The store of one process group of two: what one end sets, the other end gets."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        super().__init__()
        self._connection = connection
        self.deadline = deadline
        self._values: dict[str, bytes] = {}
        self._reader = FrameReader(_VALUE, _MAX_VALUE_BYTES)

    def set(self, key: str, value: str | bytes) -> None:
        self._values[key] = value.encode() if isinstance(value, str) else bytes(value)
        self._limit()
        self._connection.sendall(frame([key, self._values[key].hex()]))

    def get(self, key: str) -> bytes:
        """Raises TimeoutError at the deadline, ConnectionError when the peer is gone, FrameError or
        ValueError when it sends something else than values."""
        while key not in self._values:
            self._limit()
            data = self._connection.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the peer closed the link while it was being built")
            for name, value in self._reader.feed(data):
                self._values[name] = bytes.fromhex(value)
            if len(self._values) > _MAX_VALUES:
                raise FrameError(f"more than {_MAX_VALUES} values, which no link needs")
        return self._values[key]

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        for key in keys:
            self.get(key)

    def _limit(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the link was not up in time")
        self._connection.settimeout(left)


@dataclass(slots=True)
class _Caller:
    """A connection that waits: for its link's name, then for the link to be accepted."""

    connection: socket.socket
    address: str
    deadline: float
    reader: FrameReader[str] = field(default_factory=lambda: FrameReader(_NAME, _MAX_NAME_BYTES))


class Rendezvous:
    """The receiver's end: gives each accepted link the connection that asks for it by name.

    Lives in one thread, the one that runs the selector; every entry's data is a function without
    arguments to call when the entry is readable.
    """

    def __init__(
        self, selector: selectors.BaseSelector, listener: socket.socket, wait_seconds: float
    ) -> None:
        self._selector = selector
        self._listener = listener
        self._wait_seconds = wait_seconds
        self._unnamed: dict[int, _Caller] = {}
        self._named: dict[str, _Caller] = {}
        self._expected: dict[str, queue.SimpleQueue[socket.socket]] = {}
        self._is_listening = False
        self._paused_until = 0.0
        self._next_warning_at = 0.0
        listener.setblocking(False)
        self._listen()

    def expect(self, link: str) -> "queue.SimpleQueue[socket.socket]":
        """The sender's connection comes out of the queue, whether it called already or will."""
        connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        caller = self._named.pop(link, None)
        if caller is None:
            self._expected[link] = connections
        else:
            connections.put(caller.connection)
        return connections

    def forget(self, link: str) -> None:
        """The link is not accepted any more."""
        self._expected.pop(link, None)

    def expire(self) -> None:
        """Close connections that waited too long; to be called once a second or more often."""
        now = time.monotonic()
        for caller in [c for c in self._unnamed.values() if c.deadline < now]:
            self._drop(caller)
        for link in [name for name, caller in self._named.items() if caller.deadline < now]:
            self._named.pop(link).connection.close()
        if now >= self._paused_until:
            self._listen()

    def _listen(self) -> None:
        if not self._is_listening:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            self._is_listening = True

    def _pause(self, error: OSError) -> None:
        """For a while: a listener that cannot accept would be readable all the time."""
        now = time.monotonic()
        self._paused_until = now + _PAUSE_SECONDS
        if now >= self._next_warning_at:
            _log.warning("the KV rendezvous accepts no connection for a moment: %s", error)
            self._next_warning_at = now + _WARNING_SECONDS
        self._selector.unregister(self._listener)
        self._is_listening = False

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause(error)
            return  # or the caller hung up before it was answered
        if len(self._unnamed) >= _MAX_WAITING:
            self._drop(next(iter(self._unnamed.values())))
        connection.setblocking(False)
        deadline = time.monotonic() + self._wait_seconds
        caller = _Caller(connection, str(address[0]), deadline)
        self._unnamed[connection.fileno()] = caller
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read_name(caller))

    def _read_name(self, caller: _Caller) -> None:
        try:
            data = caller.connection.recv(_READ_BYTES)
            names = list(caller.reader.feed(data))
        except OSError:
            self._drop(caller)
            return
        except FrameError as error:
            _log.warning(
                "closed a connection of %s to the KV rendezvous: %s", caller.address, error
            )
            self._drop(caller)
            return
        if names:
            self._introduce(names[0], caller)
        elif not data:
            self._drop(caller)

    def _introduce(self, link: str, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        del self._unnamed[caller.connection.fileno()]
        expected = self._expected.pop(link, None)
        if expected is not None:
            expected.put(caller.connection)
        elif link in self._named:
            caller.connection.close()  # a second caller under one name: the first one keeps it
        else:
            if len(self._named) >= _MAX_WAITING:
                self._named.pop(next(iter(self._named))).connection.close()
            self._named[link] = caller

    def _drop(self, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        del self._unnamed[caller.connection.fileno()]
        caller.connection.close()


def call(link: str, rendezvous: str, deadline: float) -> socket.socket:
    """The sender's end: a connection that the receiver has accepted under this name.

    Raises OSError when there is none before the deadline.
    """
    host, _, port = rendezvous.rpartition(":")
    seconds = max(0.001, deadline - time.monotonic())
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)
    try:
        connection.sendall(frame(link))
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        answer = connection.recv(len(frame(_ACCEPTED)), socket.MSG_WAITALL)
    except BaseException:
        connection.close()
        raise
    if answer != frame(_ACCEPTED):
        connection.close()
        raise ConnectionError(f"the receiver at {rendezvous} does not accept link {link!r}")
    return connection


def answer(connection: socket.socket) -> None:
    """The receiver's reply to `call`: it goes on to build its end."""
    connection.setblocking(True)
    connection.sendall(frame(_ACCEPTED))


def own_address(connection: socket.socket) -> str:
    """This machine's address on the network that reaches the peer."""
    address: str = connection.getsockname()[0]
    return address.removeprefix("::ffff:")
