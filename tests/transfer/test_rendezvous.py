"""The receiver's rendezvous when its process is out of file descriptors."""

import errno
import selectors
import socket
from types import SimpleNamespace
from typing import NoReturn

import pytest

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
