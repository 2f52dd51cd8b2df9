"""The worker's handle on one run of the transfer process: how it starts, is written to, and dies.

Nothing here blocks except `kill`, which is bounded by the kernel's own death of the
process. Writing never waits for a process that does not read.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Final

from lengthwise_engine.forks.server import start_process
from lengthwise_engine.transfer.frames import FrameReader, frame
from lengthwise_engine.transfer.links.process_group import NCCL_ENVIRONMENT
from lengthwise_engine.transfer.messages import REPORT, Report, Setup

MODULE: Final = "lengthwise_engine.transfer.supervisor.child_main"
_READ_BYTES: Final = 2**18
_DEATH_SECONDS: Final = 5.0
_ENVIRONMENT: Final = {
    # Reasons of failed links come as events; c10d's own log lines carry a stack trace for each.
    "TORCH_CPP_LOG_LEVEL": "FATAL",
    "OMP_NUM_THREADS": "1",
    # Looking up a peer's name must not outlast the time a link has to come up.
    "RES_OPTIONS": "timeout:1 attempts:2",
    **NCCL_ENVIRONMENT,
}


class ChildHandle:
    def __init__(self, setup: Setup) -> None:
        """Start the process with this setup. It answers `Ready` when it is. Raises OSError."""
        self.socket, theirs = socket.socketpair()
        inherited = [theirs.fileno(), setup.listen_file_descriptor]
        inherited += setup.shards.file_descriptors
        try:
            self._process = start_process(
                MODULE,
                [str(inherited[0])],
                inherited=inherited,
                env=_ENVIRONMENT | os.environ,  # the operator's settings win
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.socket.setblocking(False)
        self._reader = FrameReader(REPORT)
        self._unwritten = bytearray()
        self.write(frame(setup))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unwritten)

    def write(self, data: bytes) -> None:
        """Write now what the socket takes, and keep the rest for `flush`."""
        self._unwritten += data
        self.flush()

    def flush(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: self.socket.send(self._unwritten)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unwritten.clear()  # it is dead, which `read` reports

    def read(self) -> Iterator[Report]:
        """What it reported. Raises EOFError when it is dead, FrameError when it is not itself."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        yield from self._reader.feed(data)

    def leave(self, seconds: float) -> None:
        """Ask it to end by hanging up; kill it if it has not ended by then."""
        self.socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> int:
        """On return the process is dead and maps nothing any more. Its exit status."""
        self._process.kill()
        status = self._process.wait(_DEATH_SECONDS)
        self.socket.close()
        return status
