"""The receiver's rendezvous when its process is out of file descriptors."""

import errno
import selectors
import socket
from contextlib import ExitStack
from types import SimpleNamespace
from typing import NoReturn

import pytest

from lengthwise_engine.transfer.frames import frame
from lengthwise_engine.transfer.links import rendezvous


class ExhaustedListener(socket.socket):
    def accept(self) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")


def test_attempts_that_find_no_file_descriptor_log_one_line_in_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with selectors.DefaultSelector() as selector, ExhaustedListener() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        receiver = rendezvous.Rendezvous(selector, listener, wait_seconds=5.0)
        with socket.create_connection(listener.getsockname()):
            for _ in range(30):
                ((key, _),) = selector.select(1.0)
                key.data()
                receiver.expire()
                assert not selector.get_map(), "a listener that cannot accept is paused"
                clock.now += 0.5
                receiver.expire()
    assert len(caplog.records) == 2, "at 0 and after 10 of 15 seconds"


def test_callers_that_wait_keep_out_none_that_names_its_link() -> None:
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server(("127.0.0.1", 0)) as listener,
        ExitStack() as stack,
    ):
        receiver = rendezvous.Rendezvous(selector, listener, wait_seconds=0.0)
        stack.callback(receiver.expire)  # closes those that wait

        def connected(data: bytes) -> socket.socket:
            caller = stack.enter_context(socket.create_connection(listener.getsockname()))
            caller.sendall(data)
            while ready := selector.select(0.0):
                for key, _ in ready:
                    key.data()
            return caller

        awaited = receiver.expect("a link")
        for number in range(300):
            connected(b"" if number % 2 else frame(f"stranger {number}"))
        for _ in range(260):
            connected(b"")
        connected(frame("a link"))
        stack.enter_context(awaited.get(timeout=5))
