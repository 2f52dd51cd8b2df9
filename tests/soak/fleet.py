"""A whole deployment that brings dead processes back, and knows at any moment what of it lives."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psutil
from flexible_worker.flexible import serves, set_role
from soak.schedule import Roster
from soak.timeline import Timeline, has_path

from lengthwise_local import LocalCluster, Process
from lengthwise_policy.types import Role

LOOK_SECONDS = 0.1
FLIP_SECONDS = 60.0
"""A change of role ends within 55 s, or the process does."""


@dataclass(slots=True)
class Fleet:
    """The processes by name. `raw_router` serves the callers without the SDK."""

    processes: Mapping[str, Process]
    roster: Roster
    sdk: Timeline = field(default_factory=Timeline)
    raw: Timeline = field(default_factory=Timeline)
    cut: list[tuple[str, str]] = field(default_factory=list)
    leaving: set[str] = field(default_factory=set)
    """Those that drain, or are between two roles."""
    is_decode: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    """How processes ended that nothing here had ended."""
    told_to_end: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, cluster: LocalCluster, flexible: Iterable[Process] = ()) -> "Fleet":
        """The last router is for callers without the SDK; it and the first worker of each role are
        never ended."""
        flexible = tuple(flexible)
        *routers, raw_router = (process.name for process in cluster.routers)
        prefill, decode = (
            tuple(process.name for process in pool) for pool in (cluster.prefill, cluster.decode)
        )
        roster = Roster(
            prefill=prefill,
            decode=decode,
            flexible=tuple(process.name for process in flexible),
            routers=tuple(routers),
            raw_router=raw_router,
            steady=frozenset((prefill[0], decode[0], raw_router)),
        )
        processes = {process.name: process for process in (*cluster.processes, *flexible)}
        is_decode = {process.name for process in processes.values() if process.role == "decode"}
        return cls(processes, roster, is_decode=is_decode)

    @property
    def workers(self) -> list[Process]:
        return [self.processes[name] for name in self.roster.workers]

    @property
    def steady(self) -> list[Process]:
        return [self.processes[name] for name in sorted(self.roster.steady)]

    @property
    def routers(self) -> list[Process]:
        return [self.processes[name] for name in (*self.roster.routers, self.roster.raw_router)]

    def live(self) -> set[str]:
        """Those that are ready for new work."""
        return {
            name
            for name, process in self.processes.items()
            if name not in self.leaving
            and process.announcement is not None
            and not _is_frozen(process.pid)
        }

    async def watch(self) -> None:
        """Until cancelled: starts again what has ended, and keeps the times without a path."""
        while True:
            for process in self.processes.values():
                if not process.running:
                    self._restart(process)
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def end(self, process: Process, signum: int) -> None:
        """Sends a signal that ends it, sooner or later."""
        self.told_to_end.add(process.pid)
        process.kill(signum)

    async def flip(self, worker: Process, role: Role) -> None:
        """Errors: AioRpcError when it cannot be asked, AssertionError when it does not change."""
        await set_role(worker.address, role)
        self.leaving.add(worker.name)
        self.is_decode.discard(worker.name)
        try:
            await serves(worker.address, role, FLIP_SECONDS)
            if role == "decode":
                self.is_decode.add(worker.name)
        finally:
            self.leaving.discard(worker.name)

    def _restart(self, process: Process) -> None:
        if process.pid not in self.told_to_end:
            self.ends.append(process.how_it_ended())
        self.leaving.discard(process.name)
        if process.role == "decode":
            self.is_decode.add(process.name)
        else:
            self.is_decode.discard(process.name)
        process.start()

    def _look(self) -> None:
        now, live = time.monotonic(), self.live()
        for timeline, routers in (
            (self.sdk, self.roster.routers),
            (self.raw, (self.roster.raw_router,)),
        ):
            timeline.look(now, has_path(live, self.cut, routers=routers, decode=self.is_decode))


def _is_frozen(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True
