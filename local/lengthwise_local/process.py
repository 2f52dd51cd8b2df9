"""One child process: its configuration file, log, announcement, signals and end.

Invariant: an end is observed in one place (`exit_code`), which also kills whatever the process
started itself, so nothing outlives the cluster.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from lengthwise_engine.forks.process import ForkedProcess
from lengthwise_local.errors import LocalClusterError
from lengthwise_local.shared_imports import shared_imports
from lengthwise_wire.announcement import Announcement

Role = Literal["prefill", "decode", "router"]

TIED = (sys.executable, "-m", "lengthwise_local.child")
"""Begins commands whose process ends with its starter."""

OPERATOR_ERROR = 2
"""Exit code of a process whose configuration, model or port cannot be used."""

POLL_SECONDS = 0.02
"""How often a state that the kernel does not signal is looked at."""


class Process:
    """A process of a local cluster. It may be killed and restarted any number of times."""

    def __init__(
        self,
        *,
        name: str,
        role: Role,
        model: str = "",
        command: Sequence[str],
        config: Mapping[str, object],
        folder: Path,
        env: Mapping[str, str],
    ) -> None:
        """`model`: a worker's, where there are several. `command` is given `--config FILE`;
        `folder` holds configurations, logs and, in `announced`, the announcements."""
        self.name = name
        self.role: Role = role
        self.model = model
        self.log_path = folder / f"{name}.log"
        self.num_starts = 0
        self._config_path = folder / f"{name}.yaml"
        self._command = (*command, "--config", str(self._config_path))
        self._config = dict(config)
        self._folder = folder
        self._env = dict(env)
        self._popen: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._lifeline: IO[bytes] | None = None
        self._exit_code: int | None = None
        self._announcement: Announcement | None = None

    def __repr__(self) -> str:
        return f"<{self.name} pid={self._popen.pid if self._popen else None}>"

    def start(self) -> None:
        """Starts the process and returns at once; `wait_ready` waits for its announcement."""
        if self.running:
            raise LocalClusterError(f"{self.name} runs already as process {self.pid}")
        self._forget_announcement()
        # JSON is YAML.
        self._config_path.write_text(json.dumps(self._config, indent=2), encoding="utf-8")
        with self.log_path.open("ab") as log:
            self._popen, self._lifeline = self._fork(log) or self._spawn(log)
        self._exit_code = None
        self.num_starts += 1

    def _spawn(self, log: IO[bytes]) -> "tuple[subprocess.Popen[bytes], IO[bytes] | None]":
        started = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env=self._env,
            # Ctrl-C in the terminal goes to the starter alone; and the group can be killed whole.
            start_new_session=True,
        )
        return started, started.stdin

    def _fork(self, log: IO[bytes]) -> tuple[ForkedProcess, IO[bytes]] | None:
        """The same, as a fork of what has imported everything; None where that cannot be."""
        if self._command[: len(TIED)] != TIED:
            return None
        read, write = os.pipe()
        lifeline = os.fdopen(write, "wb")
        try:
            server = shared_imports.server(self._env)
            if server is None:
                lifeline.close()
                return None
            descriptors = {0: read, 1: log.fileno(), 2: log.fileno()}
            return server.start(
                TIED[-1],
                self._command[len(TIED) :],
                env=self._env,
                descriptors=descriptors,
                folder=self._folder,
            ), lifeline
        except OSError:
            shared_imports.close()  # it has ended
            lifeline.close()
            return None
        finally:
            os.close(read)

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise LocalClusterError(f"{self.name} has not been started")
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the number of the signal that killed it."""
        if self._popen is not None and self._exit_code is None:
            code = self._popen.poll()
            if code is not None:
                self._exit_code = code
                # Gone already, unless it left children behind. On some systems a group of zombies
                # is PermissionError.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._popen.pid, signal.SIGKILL)
                if self._lifeline is not None:
                    self._lifeline.close()
        return self._exit_code

    @property
    def running(self) -> bool:
        return self._popen is not None and self.exit_code is None

    @property
    def announcement(self) -> Announcement | None:
        """What this start of the process announced; None until it is ready."""
        if self._announcement is None and self.running:
            notes = (Announcement.read(path) for path in self._announced.glob("*.json"))
            self._announcement = next(
                (note for note in notes if note and note.pid == self.pid), None
            )
        return self._announcement

    @property
    def address(self) -> str:
        """host:port of its gRPC server. Errors: LocalClusterError until it is ready."""
        return self._ready().address

    @property
    def metrics_address(self) -> str:
        """host:port of its Prometheus endpoint, or empty."""
        return self._ready().metrics

    @property
    def http_address(self) -> str:
        """host:port of a router's HTTP, or empty."""
        return self._ready().http

    @property
    def worker_id(self) -> str:
        """Unique for each start."""
        return self._ready().worker_id

    def wait_ready(self, timeout: float) -> None:
        """Errors: LocalClusterError when it ends instead, or is not ready within `timeout`
        seconds."""
        deadline = time.monotonic() + timeout
        while self.announcement is None:
            if not self.running:
                raise LocalClusterError(self.how_it_ended())
            if time.monotonic() > deadline:
                raise LocalClusterError(
                    f"{self.name} was not ready within {timeout:g} s;"
                    f" its log ends:\n{self.log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal to the process itself, not to what it started."""
        if self.running:
            os.kill(self.pid, signum)

    def wait(self, timeout: float) -> int:
        """Returns the exit code. Errors: LocalClusterError when it still runs after `timeout`
        seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.exit_code) is None:
            if self._popen is None:
                raise LocalClusterError(f"{self.name} has not been started")
            if time.monotonic() > deadline:
                raise LocalClusterError(
                    f"{self.name} (process {self.pid}) still runs after {timeout:g} s"
                )
            time.sleep(POLL_SECONDS)
        return code

    def drain(self) -> None:
        """Asks it to finish its work and end; also wakes it where it was frozen by SIGSTOP."""
        self.kill(signal.SIGTERM)
        self.kill(signal.SIGCONT)

    def restart(self, timeout: float = 60.0) -> None:
        """Kills it where it runs, starts it again, and waits until it is ready. Routers keep their
        address; workers come back with a new one, and a new worker_id."""
        if self.running:
            self.kill(signal.SIGKILL)
            self.wait(10.0)
        self.start()
        self.wait_ready(timeout)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines it wrote, over all its starts."""
        if not self.log_path.exists():
            return "(no log)"
        with self.log_path.open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, maxlen=lines)).rstrip() or "(empty log)"

    @property
    def progress(self) -> str:
        """How far a download or load has come, where its log ends with that; empty elsewhere."""
        match = re.match(r"[\d:.]+ INFO \S+ ((?:fetching|loading) .*)", self.log_tail(1))
        return match[1] if match else ""

    def how_it_ended(self) -> str:
        """How it ended, and the last lines of its log; or what it says that its operator should
        mend."""
        code = self.exit_code
        if code == OPERATOR_ERROR and (told := self._last_error()):
            return f"{self.name}: {told}"
        if code is not None and code < 0:
            end = f"was killed by {signal.Signals(-code).name}"
        else:
            end = f"ended with exit code {code}"
        return f"{self.name} {end}; its log ends:\n{self.log_tail()}"

    def _last_error(self) -> str:
        """The message of the last error in the log's end, of any number of lines."""
        lines = self.log_tail().splitlines()
        for index in reversed(range(len(lines))):
            if match := re.match(r"[\d:.]+ ERROR \S+ (.*)", lines[index]):
                return "\n".join([match[1], *lines[index + 1 :]])
        return ""

    @property
    def _announced(self) -> Path:
        return self._folder / "announced"

    def _ready(self) -> Announcement:
        note = self.announcement
        if note is None:
            raise LocalClusterError(f"{self.name} has not announced itself yet")
        return note

    def _forget_announcement(self) -> None:
        note, self._announcement = self._announcement, None
        if note is None:
            return
        (self._announced / f"{note.worker_id}.json").unlink(missing_ok=True)
        if self.role == "router":
            # Clients know it by its address.
            self._config["listen"] = note.address
            self._config["metrics_listen"] = note.metrics
            if note.http:
                self._config["http"] = {"listen": note.http}
