"""A way for one thread to end another one's `select`."""

import socket
from contextlib import suppress


class Waker:
    """Register `readable` with the selector, and `clear` it once it woke up."""

    def __init__(self) -> None:
        self._writable, self.readable = socket.socketpair()
        self._writable.setblocking(False)
        self.readable.setblocking(False)

    def wake(self) -> None:
        """From any thread; never waits."""
        with suppress(BlockingIOError):  # full of wake-ups already
            self._writable.send(b"w")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            self.readable.recv(4096)

    def close(self) -> None:
        self._writable.close()
        self.readable.close()
