"""A user's handle on a process that a fork server started."""

import os
import signal
import socket
import struct
import subprocess
import threading
import time
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
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Waits for a server that still imports. Raises OSError when that has ended."""
        deadline = time.monotonic() + _START_SECONDS
        while self._pid is None:
            if not self._hear(deadline - time.monotonic()) or self.returncode is not None:
                raise ProcessLookupError("the fork server has started no process")
        return self._pid

    def poll(self) -> int | None:
        while self.returncode is None and self._hear(0.0):
            pass
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            if not self._hear(deadline - time.monotonic()):
                raise subprocess.TimeoutExpired(repr(self), timeout)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _hear(self, seconds: float) -> bool:
        """Whether something came within `seconds`, or is known already."""
        with self._lock:
            if self.returncode is not None:
                return True
            self._report.settimeout(max(0.0, seconds))
            try:
                number = self._report.recv(NUMBER.size)
            except (TimeoutError, BlockingIOError):
                return False
            if number and self._pid is None:
                (self._pid,) = NUMBER.unpack(number)
                return True
            if number:
                (self.returncode,) = NUMBER.unpack(number)
            else:  # without its server nothing would tell its end any more
                if self._pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(self._pid, signal.SIGKILL)
                self.returncode = -signal.SIGKILL
            self._report.close()
            return True
