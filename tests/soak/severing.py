"""Cuts the TCP connections between processes of this machine, without privileges: descriptors of
descendants can be borrowed, and shutting one down ends the connection for all."""

import ctypes
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress

import psutil

_PIDFD_GETFD = 438  # the same on every architecture; Python has no name for it
_libc = ctypes.CDLL(None, use_errno=True)


def sever(some: Sequence[psutil.Process], others: Sequence[psutil.Process]) -> int:
    """Ends every connection from one of these to one of those; how many there were."""
    ends = {(far, near) for near, far, _, _ in _connections(others)}
    found = [(pid, fd) for near, far, pid, fd in _connections(some) if (near, far) in ends]
    return sum(_shut_down(pid, fd) for pid, fd in found)


def family(pid: int) -> list[psutil.Process]:
    """The process and its descendants; none when it is gone."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _connections(processes: Sequence[psutil.Process]) -> Iterator[tuple[object, object, int, int]]:
    """Address at this end, at the other, process, descriptor."""
    for process in processes:
        with suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_ESTABLISHED:
                    # An IPv6 socket names an IPv4 peer ::ffff:a.b.c.d.
                    near, far = (
                        (address.ip.removeprefix("::ffff:"), address.port)
                        for address in (connection.laddr, connection.raddr)
                    )
                    yield near, far, process.pid, connection.fd


def _shut_down(pid: int, fd: int) -> bool:
    """False when the process or the descriptor is gone already."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            borrowed = _libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
        finally:
            os.close(pidfd)
        if borrowed >= 0:
            with socket.socket(fileno=borrowed) as connection, suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                return True
    return False
