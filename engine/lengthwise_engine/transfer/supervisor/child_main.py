"""The transfer process: owns every link of one worker, and dies with its parent.

`python -m lengthwise_engine.transfer.supervisor.child_main FD` speaks frames over the inherited
socket FD: `Setup` first, then commands in, reports out. The main thread only dispatches;
it waits for sockets and for nothing else, so that a discard is answered at once whatever the links
are doing.
"""

import os
import queue
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NoReturn

import torch

from lengthwise_engine.transfer.base import Discarded, LinkDown, LinkUp
from lengthwise_engine.transfer.blocks.open_blocks import open_blocks
from lengthwise_engine.transfer.frames import FrameReader, frame
from lengthwise_engine.transfer.links.base import Handshake, Incoming, LinkEnd, Outgoing
from lengthwise_engine.transfer.links.kinds import open_receiver, open_sender
from lengthwise_engine.transfer.links.link import KeepLifeline, Link
from lengthwise_engine.transfer.links.receive_link import ReceiveLink
from lengthwise_engine.transfer.links.rendezvous import PairStore, Rendezvous, answer, call
from lengthwise_engine.transfer.links.send_link import SendLink
from lengthwise_engine.transfer.messages import (
    SETUP_OR_COMMAND,
    Accept,
    Close,
    Command,
    Connect,
    Discard,
    Ping,
    Pong,
    Ready,
    Receive,
    Report,
    Send,
    Setup,
)
from lengthwise_engine.waker import Waker

_READ_BYTES: Final = 2**18
_TICK_SECONDS: Final = 1.0

AnyLink = SendLink | ReceiveLink


class TransferChild:
    def __init__(self, parent: socket.socket, setup: Setup) -> None:
        self._parent = parent
        self._setup = setup
        self._writing = threading.Lock()
        caches = setup.shards.attach()
        self._device = caches[0].tensor.device
        self._blocks = open_blocks(setup.shards.layout, caches)
        self._links: dict[str, AnyLink] = {}
        self._selector = selectors.DefaultSelector()
        self._tasks: deque[Callable[[], None]] = deque()
        self._waker = Waker()
        self._selector.register(self._waker.readable, selectors.EVENT_READ, self._waker.clear)
        listener = socket.socket(fileno=setup.listen_file_descriptor)
        self._rendezvous = Rendezvous(self._selector, listener, setup.connect_seconds)

    def run(self, reader: FrameReader[Setup | Command]) -> None:
        """Serve until the parent hangs up."""
        self._selector.register(
            self._parent, selectors.EVENT_READ, partial(self._read_parent, reader)
        )
        self._tell(Ready())
        while True:
            for key, _ in self._selector.select(_TICK_SECONDS):
                key.data()
            while self._tasks:
                self._tasks.popleft()()
            self._rendezvous.expire()

    def _read_parent(self, reader: FrameReader[Setup | Command]) -> None:
        try:
            data = self._parent.recv(_READ_BYTES)
        except ConnectionResetError:  # it died with reports unread
            data = b""
        if not data:
            _leave()
        for command in reader.feed(data):
            self._obey(command)

    def _obey(self, command: Setup | Command) -> None:
        match command:
            case Connect(link=name, rendezvous=rendezvous):
                open_sending = partial(self._open_sender, name, rendezvous)
                self._add(SendLink(name, open_sending, self._tell, self._ended))
            case Accept(link=name):
                open_receiving = partial(self._open_receiver, self._rendezvous.expect(name))
                self._add(ReceiveLink(name, open_receiving, self._tell, self._ended))
            case Send(link=name):
                link = self._links.get(name)
                if isinstance(link, SendLink):
                    link.send(command)
            case Receive(link=name):
                link = self._links.get(name)
                if isinstance(link, ReceiveLink):
                    link.receive(command)
            case Discard(key=key):
                for link in self._links.values():
                    if isinstance(link, ReceiveLink):
                        link.discard(key)
                self._tell(Discarded(key=key))
            case Ping():
                self._tell(Pong())
            case Close(link=name):
                link = self._links.get(name)
                if link is not None:
                    link.take_down("closed by this side")

    def _add(self, link: AnyLink) -> None:
        self._links[link.name] = link
        link.start()

    def _open_sender(
        self, name: str, rendezvous: str, keep_lifeline: KeepLifeline
    ) -> tuple[LinkEnd[Outgoing], str]:
        deadline = time.monotonic() + self._setup.connect_seconds
        connection = call(name, rendezvous, deadline)
        keep_lifeline(connection)
        return open_sender(self._handshake(connection, deadline))

    def _open_receiver(
        self, connections: "queue.SimpleQueue[socket.socket]", keep_lifeline: KeepLifeline
    ) -> tuple[LinkEnd[Incoming], str]:
        seconds = self._setup.connect_seconds
        deadline = time.monotonic() + seconds
        try:
            connection = connections.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no sender called within {seconds:g} s") from None
        keep_lifeline(connection)
        answer(connection)
        return open_receiver(self._handshake(connection, deadline))

    def _handshake(self, connection: socket.socket, deadline: float) -> Handshake:
        return Handshake(
            connection=connection,
            store=PairStore(connection, deadline),
            setup=self._setup,
            blocks=self._blocks,
            device=self._device,
        )

    def _tell(self, report: Report) -> None:
        data = frame(report)
        with self._writing:
            try:
                self._parent.sendall(data)
            except OSError:
                _leave()
        if isinstance(report, LinkUp):
            self._soon(partial(self._watch, report.link))
        elif isinstance(report, LinkDown):
            self._soon(partial(self._forget, report.link))

    def _ended(self, link: Link[Any]) -> None:
        self._soon(partial(self._hang_up, link))

    def _soon(self, task: Callable[[], None]) -> None:
        """Have the main thread do it."""
        self._tasks.append(task)
        self._waker.wake()

    def _watch(self, name: str) -> None:
        """The link is up: from now on its lifeline is readable only when the peer hung up."""
        link = self._links.get(name)
        if link is not None and link.lifeline is not None:
            self._selector.register(
                link.lifeline, selectors.EVENT_READ, partial(self._read_lifeline, link)
            )

    def _read_lifeline(self, link: AnyLink) -> None:
        assert link.lifeline is not None
        try:
            data = link.lifeline.recv(_READ_BYTES)
        except OSError:
            data = b""
        if data:
            link.receive_data(data)
        else:
            link.take_down("the peer closed the link or died")

    def _forget(self, name: str) -> None:
        """The link is down. Its thread may still use the lifeline, so that is closed later."""
        link = self._links.pop(name, None)
        self._rendezvous.forget(name)
        if link is not None and link.lifeline is not None:
            with suppress(KeyError):  # went down before it came up
                self._selector.unregister(link.lifeline)

    def _hang_up(self, link: Link[Any]) -> None:
        if link.lifeline is not None:
            link.lifeline.close()


def _leave() -> NoReturn:
    """The parent is gone. Threads may be inside gloo, which must not see its memory torn down."""
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    parent = socket.socket(fileno=int(sys.argv[1]))
    reader = FrameReader(SETUP_OR_COMMAND)
    first: list[Setup | Command] = []
    while not first:  # commands follow only what reported `Ready`
        data = parent.recv(_READ_BYTES)
        if not data:
            _leave()
        first += reader.feed(data)
    setup = first[0]
    assert isinstance(setup, Setup)
    TransferChild(parent, setup).run(reader)


if __name__ == "__main__":
    main()
