"""Bytes from strangers at the port where transfer processes find each other: whatever they are, the
process lives, and its links with it."""

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import until
from transfer.ends import End, Ends, new_cache, start_processes

from lengthwise_engine.transfer.base import LinkDown
from lengthwise_engine.transfer.config import TransferConfig

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    ends = Ends(End(new_cache(1)), End(new_cache(2)))
    start_processes(TransferConfig(stall_seconds=2.0, connect_seconds=8.0), *_each(ends))
    yield ends
    for end in _each(ends):
        end.transfer.stop()


@contextlib.contextmanager
def undisturbed(ends: Ends) -> Iterator[None]:
    """Fails unless the receiver's process is the same afterwards, has kept the link it had, and
    takes another one."""
    until(lambda: ends.receiver.transfer.pid)  # where a test before lost it
    before = _pid(ends)
    link = ends.link()
    yield
    assert _pid(ends) == before, "the transfer process was lost"
    ends.link()
    assert not any(isinstance(event, LinkDown) for event in ends.receiver.about(link))


def _each(ends: Ends) -> tuple[End, End]:
    return ends.sender, ends.receiver


def _pid(ends: Ends) -> int:
    pid = ends.receiver.transfer.pid
    assert isinstance(pid, int), "the transfer process was lost"
    return pid


def connected(ends: Ends) -> socket.socket:
    host, _, port = ends.receiver.transfer.rendezvous.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=2)


def frame(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def is_closed(connection: socket.socket) -> bool:
    """Within the socket's timeout, by the other end."""
    try:
        return not connection.recv(1)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


GARBAGE = (
    *(b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n"),
    *(frame(b"{}"), frame(b"null"), frame(b'{"message":"Setup"}'), frame(b'"\xff\xfe"')),
    *(frame(b"1" * 5000), frame(b'["x"]'), frame(b'"x"')),
)


def test_garbage_closes_its_own_connection_alone(ends: Ends) -> None:
    with undisturbed(ends):
        for payload in GARBAGE[:-1]:
            with connected(ends) as stranger:
                stranger.sendall(payload)
                assert is_closed(stranger), payload[:40]
        with connected(ends) as stranger:
            stranger.sendall(GARBAGE[-1])  # the name of a link that nobody accepts


def test_deeply_nested_json_closes_its_own_connection_alone(ends: Ends) -> None:
    with undisturbed(ends), connected(ends) as stranger:
        stranger.sendall(frame(b"[" * 100_000))
        assert is_closed(stranger)
        time.sleep(0.3)  # in which a process that dies of it is missed


def test_a_name_that_is_announced_too_long_is_not_waited_for(ends: Ends) -> None:
    with undisturbed(ends), connected(ends) as stranger:
        stranger.sendall(struct.pack("!I", 64 * MIB) + b"[" * 1000)
        assert is_closed(stranger)


def test_callers_that_take_all_its_descriptors_do_not_end_it(ends: Ends) -> None:
    with undisturbed(ends):
        pid = _pid(ends)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        in_use = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 4, limits[1]))
        try:
            with contextlib.ExitStack() as stack:
                for _ in range(16):
                    stack.enter_context(connected(ends))
                time.sleep(0.5)  # in which a process that dies of it is missed
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
