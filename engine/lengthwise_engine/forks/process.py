"""A user's handle on a process that a fork server started."""

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

NUMBER: Final = struct.Struct("=q")
_START_SECONDS: Final = 60.0


class ForkedProcess:
    """What `subprocess.Popen` says of a process, of one that a fork server started."""

    def __init__(self, report: socket.socket) -> None:
        """`report` brings the process's number and, at its end, its exit status."""
        self.returncode: int | None = None
        self._pid: int | None = None
        self._report = report
        self._changed = threading.Condition()
        self._is_read = False  # a thread waits for what comes; others wait for that thread

    @property
    def pid(self) -> int:
        """Waits for a server that still imports. Raises OSError when that has ended."""
        self._learn(lambda: self._pid is not None, _START_SECONDS)
        if self._pid is None:
            raise ProcessLookupError("the fork server has started no process")
        return self._pid

    def poll(self) -> int | None:
        self._learn(lambda: False, 0.0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._learn(lambda: False, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(repr(self), timeout)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _learn(self, is_enough: Callable[[], bool], seconds: float) -> None:
        """Takes what comes within `seconds`, until that is enough or the process has ended. Threads
        may ask at once: one reads, and none waits for as long as another one does."""
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                if self.returncode is not None or is_enough():
                    return
                left = max(0.0, deadline - time.monotonic())
                if self._is_read:
                    if not self._changed.wait(left):
                        return
                    continue
                self._is_read = True
            number = None
            try:
                self._report.settimeout(left)
                with suppress(TimeoutError, BlockingIOError):
                    number = self._report.recv(NUMBER.size)
            finally:
                with self._changed:
                    self._is_read = False
                    if number is not None:
                        self._take(number)
                    self._changed.notify_all()
            if number is None:
                return

    def _take(self, number: bytes) -> None:
        """The process's number, then its exit status; nothing where the server has ended."""
        if number and self._pid is None:
            (self._pid,) = NUMBER.unpack(number)
            return
        if number:
            (self.returncode,) = NUMBER.unpack(number)
        else:  # without its server nothing would tell its end any more
            if self._pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            self.returncode = -signal.SIGKILL
        self._report.close()
