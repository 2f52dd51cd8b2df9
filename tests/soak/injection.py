"""Does what a schedule says to a fleet, each fault at its time whatever the others do."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import grpc
import psutil
from harness.workers import transfer_processes_of
from soak.fleet import Fleet
from soak.schedule import Fault, Kind
from soak.severing import family, sever

from lengthwise_local import LocalClusterError, Process
from lengthwise_policy.types import Role

AGAIN_SECONDS = 0.1
"""Between two blows of a fault that lasts."""


class Injection:
    """`happened` is called as each fault begins."""

    def __init__(self, fleet: Fleet, happened: Callable[[Fault], None]) -> None:
        self._fleet = fleet
        self._happened = happened
        self._acts: Mapping[Kind, Callable[[Fault], Awaitable[None]]] = {
            "kill": self._kill,
            "crash loop": self._kill,
            "drain": self._drain,
            "freeze": self._freeze,
            "kill transfer": self._kill_transfer,
            "crash loop transfer": self._kill_transfer,
            "freeze transfer": self._freeze_transfer,
            "cut link": self._cut,
            "cut channel": self._cut,
            "flip": self._flip,
        }

    async def play(self, schedule: Sequence[Fault]) -> None:
        """Returns when the last fault is over."""
        began_at = time.monotonic()

        async def at_its_time(fault: Fault) -> None:
            await asyncio.sleep(began_at + fault.at_seconds - time.monotonic())
            self._happened(fault)
            # What is hit may have gone a moment before.
            with suppress(LocalClusterError, ProcessLookupError, psutil.NoSuchProcess):
                await self._acts[fault.kind](fault)

        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                group.create_task(at_its_time(fault))

    def _victim(self, fault: Fault) -> Process:
        return self._fleet.processes[fault.victim]

    async def _kill(self, fault: Fault) -> None:
        victim = self._victim(fault)
        await self._repeat(fault, lambda: self._fleet.end(victim, signal.SIGKILL))

    async def _drain(self, fault: Fault) -> None:
        self._fleet.leaving.add(fault.victim)
        self._fleet.end(self._victim(fault), signal.SIGTERM)

    async def _freeze(self, fault: Fault) -> None:
        await _frozen([psutil.Process(self._victim(fault).pid)], fault.seconds)

    async def _kill_transfer(self, fault: Fault) -> None:
        victim = self._victim(fault)

        def kill() -> None:
            if victim.running and victim.announcement is None:
                # One that cannot start its transfer process ends.
                self._fleet.told_to_end.add(victim.pid)
            for child in transfer_processes_of(victim.pid):
                with suppress(psutil.NoSuchProcess):
                    child.kill()

        await self._repeat(fault, kill)

    async def _freeze_transfer(self, fault: Fault) -> None:
        await _frozen(transfer_processes_of(self._victim(fault).pid), fault.seconds)

    async def _cut(self, fault: Fault) -> None:
        pair = (fault.victim, fault.peer)
        processes = [self._fleet.processes[name] for name in pair]
        self._fleet.cut.append(pair)
        try:
            await self._repeat(fault, lambda: sever(*(family(each.pid) for each in processes)))
        finally:
            self._fleet.cut.remove(pair)

    async def _flip(self, fault: Fault) -> None:
        role: Role = "prefill" if fault.victim in self._fleet.is_decode else "decode"
        # It may be killed or frozen meanwhile, or change or drain already.
        with suppress(grpc.aio.AioRpcError, AssertionError):
            await self._fleet.flip(self._victim(fault), role)

    async def _repeat(self, fault: Fault, blow: Callable[[], object]) -> None:
        """At once, and again until the fault is over."""
        until = time.monotonic() + fault.seconds
        await asyncio.to_thread(blow)
        while time.monotonic() < until:
            await asyncio.sleep(AGAIN_SECONDS)
            await asyncio.to_thread(blow)


async def _frozen(processes: Sequence[psutil.Process], seconds: float) -> None:
    for process in processes:
        process.suspend()
    try:
        await asyncio.sleep(seconds)
    finally:
        for process in processes:
            # psutil compares the time of start: a number that was given away is not woken.
            with suppress(psutil.NoSuchProcess):
                process.resume()
