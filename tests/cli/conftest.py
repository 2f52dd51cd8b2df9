"""The command in a process of its own, on a terminal or not, against a scripted router."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

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


CONTROLLING = "import fcntl, runpy, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
"""Without it Ctrl-C on the terminal would be no signal."""

RUN_COMMAND = "runpy.run_module('lengthwise_cli.main', run_name='__main__', alter_sys=True)\n"


class Terminal:
    """The command on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, program: str = RUN_COMMAND) -> None:
        """`program` is Python that may be run instead."""
        self.output = ""
        self._file, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        # No fork of this process: it has threads of gRPC.
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLING + program, *arguments],
            stdin=other, stdout=other, stderr=other, start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
        os.close(other)

    def read_until(self, text: str, seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            left = deadline - time.monotonic()
            if not select.select([self._file], [], [], max(left, 0.0))[0]:
                self._fail(f"got no {text!r} within {seconds:g} s")
            if not self._read():
                self._fail(f"ended without {text!r}")

    def interrupt_until(self, end: str, seconds: float = 40.0) -> None:
        """Types Ctrl-C until something ends the output that comes. Once may not do: `input`
        does not notice a signal that comes just before it waits for a key."""
        deadline = time.monotonic() + seconds
        begin = len(self.output)
        while not self.output[begin:].endswith(end):
            if time.monotonic() > deadline:
                self._fail(f"got no {end!r} within {seconds:g} s")
            self.type("\x03")
            while select.select([self._file], [], [], 0.5)[0]:
                if not self._read():
                    self._fail(f"ended without {end!r}")

    def _fail(self, said: str) -> NoReturn:
        self._process.kill()  # or it would trouble the tests that follow
        self._process.wait(10)
        os.close(self._file)
        pytest.fail(f"{said}:\n{self.output}")

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def finish(self) -> int:
        """The exit code, once the command has ended."""
        while self._read():
            pass
        os.close(self._file)
        return self._process.wait(10)

    def _read(self) -> bool:
        try:
            data = os.read(self._file, 65_536)
        except OSError:  # which is how a terminal ends
            return False
        self.output += data.decode()
        return bool(data)
