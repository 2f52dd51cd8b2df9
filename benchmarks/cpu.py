"""Who used the machine's cores: this process, its children, or others.

A measurement of processes that share cores reports how much of them went elsewhere.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """Cores, on average."""

    client: float  # this process
    cluster: float  # all that descends from it
    foreign: float  # everything else on the machine


class CpuWatch:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._began_at = time.perf_counter()
        self._busy = _busy_seconds()
        self._mine = _seconds(self._me)
        self._children = self._seconds_of_children()

    def use(self) -> CpuUse:
        """Since the making. Children that have ended meanwhile count as foreign."""
        elapsed = time.perf_counter() - self._began_at
        client = (_seconds(self._me) - self._mine) / elapsed
        children = self._seconds_of_children()
        cluster = sum(used - self._children.get(pid, 0.0) for pid, used in children.items())
        busy = (_busy_seconds() - self._busy) / elapsed
        foreign = max(0.0, busy - client - cluster / elapsed)
        return CpuUse(client=client, cluster=cluster / elapsed, foreign=foreign)

    def _seconds_of_children(self) -> Mapping[int, float]:
        found = {}
        for child in self._me.children(recursive=True):
            try:
                found[child.pid] = _seconds(child)
            except psutil.NoSuchProcess:  # between being listed and being read
                continue
        return found


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system
