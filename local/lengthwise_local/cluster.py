"""Prefill workers, decode workers and routers as processes on loopback, in one run folder.

Synchronous and without threads. Nothing is restarted behind the owner's back: see `Supervisor`.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lengthwise_local.errors import LocalClusterError
from lengthwise_local.models import served, with_adapters
from lengthwise_local.preflight import MODULES, require_counts, require_extras, router_addresses
from lengthwise_local.process import POLL_SECONDS, TIED, Process, Role
from lengthwise_local.settings import require_local_prefill, settings_by_role
from lengthwise_local.shared_imports import shared_imports
from lengthwise_runtime.memory import usable_memory_bytes

KILL_SECONDS = 5.0
"""A killed process is gone at once; a machine that swaps may need longer to report it."""

MEMORY_SHARE = 0.9
"""Of the memory that is there at the start, and of a GPU's: what all workers together take."""


class LocalCluster:
    """A whole deployment on this machine.

    with LocalCluster(model=folder, prefill=2, decode=2) as cluster:
        with lengthwise.Client(cluster.endpoints) as client: ...
        cluster.decode[0].kill()            # SIGKILL; any signal will do
        cluster.decode[0].restart()
    """

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        models: Mapping[str, str | Path] | None = None,
        adapters: Sequence[str] = (),
        prefill: int = 1,
        decode: int = 1,
        routers: int = 1,
        device: str = "auto",
        host: str = "127.0.0.1",
        port: int = 0,
        metrics_port: int = 0,
        http_port: int | None = None,
        settings: Sequence[str] = (),
        configs: Mapping[Role, Mapping[str, object]] | None = None,
        env: Mapping[str, str] | None = None,
        commands: Mapping[Role, Sequence[str]] | None = None,
        folder: str | Path | None = None,
        start_seconds: float = 120.0,
        drain_seconds: float = 35.0,
    ) -> None:
        """Checks what can be checked; starts nothing.

        model: checkpoint folder, .gguf file or hub id; None: the demo model.
        models: instead of it, several, by the names that requests call them.
        adapters: NAME=FOLDER, or a hub id, of LoRA adapters of the model; with one model alone.
        prefill, decode: workers of each model; prefill 0: decode workers compute all prompts.
        host: where routers listen; workers and metrics stay on loopback.
        port, metrics_port, http_port: of the first router, others count up; 0: any; None: no HTTP.
        settings: "KEY=VALUE" and "ROLE.KEY=VALUE", see `settings_by_role`.
        configs: keys that replace or join a role's configuration.
        commands: runs these instead of a role's process, with `--config FILE` added.
        drain_seconds: what routers, and then workers, get to end; their own limit is 30 s.
        folder: for configurations and logs, kept; None: a new one, removed after a clean exit.
        Errors: LocalClusterError, one line, for a bad model, a taken port, an extra not installed.
        """
        require_counts(prefill=prefill, decode=decode, routers=routers)
        if device not in ("auto", "cpu", "cuda"):
            raise LocalClusterError(f"device: got {device!r}, expected auto, cpu or cuda")
        self.start_seconds = start_seconds
        self.drain_seconds = drain_seconds
        self._device = device
        self._models = served(model, models)
        self._counts: dict[Role, int] = {"prefill": prefill, "decode": decode, "router": routers}
        self._num_workers = len(self._models) * (prefill + decode)
        self.host = host
        self._configs = with_adapters(configs or {}, adapters, len(self._models))
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", **(env or {})}
        self._commands = dict(commands or {})
        self._given_folder = None if folder is None else Path(folder)
        self._folder: Path | None = None
        self.prefill: tuple[Process, ...] = ()
        self.decode: tuple[Process, ...] = ()
        self.routers: tuple[Process, ...] = ()
        if self._counts.keys() - self._commands.keys():
            require_extras()
        self._settings = self._checked(settings)
        self._memory_bytes = usable_memory_bytes()
        self._addresses = router_addresses(host, routers, port, metrics_port, http_port)

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.wait_ready()
        except BaseException as error:
            error.add_note(f"logs: {self._folder}")
            self.stop(drain_seconds=0.0, keep_folder=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"logs of the local cluster: {self._folder}")
        self.stop(keep_folder=error is not None)

    @property
    def folder(self) -> Path:
        """Holds every process's configuration, log and announcement."""
        if self._folder is None:
            raise LocalClusterError("the cluster has not been launched")
        return self._folder

    @property
    def workers(self) -> tuple[Process, ...]:
        return (*self.prefill, *self.decode)

    @property
    def processes(self) -> tuple[Process, ...]:
        """In the order of start: workers, then routers."""
        return (*self.workers, *self.routers)

    @property
    def endpoints(self) -> list[str]:
        """host:port of every router."""
        return [router.address for router in self.routers]

    @property
    def endpoint(self) -> str:
        """host:port of the first router."""
        return self.routers[0].address

    def launch(self) -> None:
        """Starts every process and returns at once."""
        if self._folder is not None:
            raise LocalClusterError(f"the cluster was launched already in {self._folder}")
        self._folder = self._given_folder or Path(tempfile.mkdtemp(prefix="lengthwise-"))
        (self._folder / "announced").mkdir(parents=True, exist_ok=True)
        self.prefill = tuple(self._make("prefill"))
        self.decode = tuple(self._make("decode"))
        self.routers = tuple(self._make("router"))
        shared_imports.acquire(self)
        for process in self.processes:
            process.start()

    def wait_ready(self, on_wait: Callable[[Sequence[Process]], None] | None = None) -> None:
        """Returns when every process has announced itself; `on_wait` is called with those still
        missing, some tens of times a second.

        Errors: LocalClusterError when one ends, or `start_seconds` pass, with the end of its log.
        """
        deadline = time.monotonic() + self.start_seconds
        while missing := [process for process in self.processes if process.announcement is None]:
            for process in missing:
                if not process.running:
                    raise LocalClusterError(process.how_it_ended())
            if time.monotonic() > deadline:
                names = ", ".join(process.name for process in missing)
                raise LocalClusterError(
                    f"not ready within {self.start_seconds:g} s: {names};"
                    f" the log of {missing[0].name} ends:\n{missing[0].log_tail()}"
                )
            if on_wait is not None:
                on_wait(missing)
            time.sleep(POLL_SECONDS)

    def stop(
        self, drain_seconds: float | None = None, *, keep_folder: bool = False
    ) -> list[Process]:
        """Drains routers, then workers, kills what is left; returns those that had to be killed.

        The run folder is removed unless it was given, is to be kept, or something had to be killed.
        """
        patience = self.drain_seconds if drain_seconds is None else drain_seconds
        killed = [*_end(self.routers, patience), *_end(self.workers, patience)]
        shared_imports.release(self)
        if self._folder is not None and self._given_folder is None and not (keep_folder or killed):
            shutil.rmtree(self._folder, ignore_errors=True)
        return killed

    def _checked(self, settings: Sequence[str]) -> dict[Role, tuple[str, ...]]:
        """By role. Errors: LocalClusterError."""
        by_role = settings_by_role(settings) if settings else {}
        if not self._counts["prefill"]:
            require_local_prefill(self._configs.get("router", {}), by_role.get("router", ()))
        return by_role

    def _make(self, role: Role) -> Iterator[Process]:
        command = self._commands.get(role, (*TIED, MODULES[role]))
        for index, (name, config) in enumerate(self._default_configs(role)):
            yield Process(
                name=f"{role}-{index}",
                role=role,
                model=name,
                command=(*command, *_as_options(self._settings.get(role, ()))),
                config={**config, **self._configs.get(role, {})},
                folder=self.folder,
                # NCCL refuses two workers on one GPU unless each names a host of its own.
                env={"NCCL_HOSTID": f"{role}-{index}", **self._env},
            )

    def _default_configs(self, role: Role) -> Iterator[tuple[str, dict[str, object]]]:
        """Of each process, with the name of its model where there are several."""
        if role == "router":
            for index in range(self._counts[role]):
                yield "", self._router_config(index)
            return
        for name, model in self._models.items():
            for _ in range(self._counts[role]):
                yield name, {**model, **self._worker_config()}

    def _router_config(self, index: int) -> dict[str, object]:
        models = list(self._models.values())
        return {
            **(models[0] if len(models) == 1 else {"models": models}),
            "announce_folder": self._announced,
            **self._addresses[index],
            "discovery": {"folder": self._announced},
        }

    def _worker_config(self) -> dict[str, object]:
        return {
            "announce_folder": self._announced,
            "listen": "127.0.0.1:0",
            "advertise_host": "127.0.0.1",
            "metrics_listen": "127.0.0.1:0",
            "device": self._device,
            "threads": max(1, _num_cores() // self._num_workers),
            "memory_share": MEMORY_SHARE / self._num_workers,
            "memory_bytes": self._memory_bytes,
        }

    @property
    def _announced(self) -> str:
        return str(self.folder / "announced")


def _end(processes: Sequence[Process], drain_seconds: float) -> list[Process]:
    for process in processes:
        process.drain()
    deadline = time.monotonic() + drain_seconds
    while any(process.running for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    killed = [process for process in processes if process.running]
    for process in killed:
        process.kill()
        process.wait(KILL_SECONDS)
    return killed


def _as_options(settings: Sequence[str]) -> Iterator[str]:
    for setting in settings:
        yield from ("--set", setting)


def _num_cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
