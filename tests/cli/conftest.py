"""The command in a process of its own, on a terminal or not, against a scripted router."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from client.scripted_router import Router, serving

COMMAND = (sys.executable, "-m", "lengthwise_cli.main")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def router() -> Iterator[Router]:
    router = Router()
    with serving(router):
        yield router


@pytest.fixture
def run() -> Run:
    """Runs the command; keyword arguments join its environment."""

    def run(*arguments: str, stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin, capture_output=True, text=True, timeout=50, check=False,
            env={**os.environ, **env},
        )  # fmt: skip

    return run


class Terminal:
    """The command on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80) -> None:
        self.output = ""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [*COMMAND, *arguments])
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, size)

    def read_until(self, text: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            assert self._read(), f"ended without {text!r}:\n{self.output}"

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def finish(self) -> int:
        """The exit code, once the command has ended."""
        while self._read():
            pass
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        try:
            data = os.read(self._file, 65_536)
        except OSError:  # which is how a terminal ends
            return False
        self.output += data.decode()
        return bool(data)
