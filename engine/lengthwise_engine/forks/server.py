"""A user's end of a fork server, and the one that a process has for what it starts itself."""

import errno
import gc
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from lengthwise_engine.forks.process import ForkedProcess
from lengthwise_engine.forks.serving import REQUEST_BYTES, fork, run_to_end

_SERVING: Final = "lengthwise_engine.forks.serving"
_DEATH_SECONDS: Final = 5.0


class ForkServer:
    """A user's end of a fork server."""

    def __init__(
        self, control: socket.socket, process: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        self._control = control
        self._process = process

    @classmethod
    def spawn(cls, modules: Sequence[str], env: Mapping[str, str]) -> Self:
        """In an interpreter of its own; returns at once. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _SERVING, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
            )
        return cls(ours, process)

    @classmethod
    def fork(cls, modules: Sequence[str]) -> Self:
        """Of this process, which may have imported, but not started anything yet."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()
        if fork() == 0:
            ours.close()
            run_to_end(theirs, modules)
        theirs.close()
        return cls(ours)

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        descriptors: Mapping[int, int],
        folder: Path | None = None,
    ) -> ForkedProcess:
        """A process that calls `main` of `module`, in a session of its own. `descriptors`: what it
        inherits, by the numbers that they have there. Raises OSError when the server has ended."""
        numbers, sources = list(descriptors), list(descriptors.values())
        request = [module, list(arguments), dict(env), str(folder or ""), numbers]
        data = json.dumps(request).encode()
        if len(data) > REQUEST_BYTES:
            raise OSError(errno.E2BIG, f"arguments and environment of {len(data)} bytes")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                socket.send_fds(self._control, [data], [theirs.fileno(), *sources])
        except BaseException:
            ours.close()
            raise
        return ForkedProcess(ours)

    def close(self) -> None:
        """What it started counts as killed, and is."""
        self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(_DEATH_SECONDS)


_own: ForkServer | None = None


def set_own_server(server: ForkServer | None) -> None:
    """From now on `start_process` of this process uses that."""
    global _own
    _own = server


def fork_own_server(*modules: str) -> None:
    """The first thing that a program does which will start processes that run `modules`."""
    if sys.platform == "linux":
        set_own_server(ForkServer.fork(modules))


def start_process(
    module: str, arguments: Sequence[str], *, inherited: Sequence[int], env: Mapping[str, str]
) -> "ForkedProcess | subprocess.Popen[bytes]":
    """`python -m MODULE ARGUMENT…` in a session of its own, forked where that can be. Raises
    OSError."""
    if _own is not None:
        try:
            return _own.start(
                module, arguments, env=env, descriptors={each: each for each in (1, 2, *inherited)}
            )
        except OSError:
            set_own_server(None)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        env=env,
        # So that a Ctrl-C at a terminal leaves it to its parent to end it.
        start_new_session=True,
    )
