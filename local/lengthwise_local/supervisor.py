"""Brings dead processes back, later each time, and gives up on one that keeps dying.

No thread and no sleep: its owner calls `look` a few times a second, and reports the events.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lengthwise_local.errors import LocalClusterError
from lengthwise_local.process import Process

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 8.0
MAX_RESTARTS = 5
WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    process: Process
    how_it_ended: str  # as `Process.how_it_ended`
    restart_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """It runs and is ready again."""

    process: Process


@dataclass(slots=True)
class _Life:
    process: Process
    deaths: deque[float] = field(default_factory=deque)
    """Within the window."""
    restart_at: float | None = None
    ready_by: float | None = None
    """Set while a restarted process is not ready."""


class Supervisor:
    """Watches processes that were ready once."""

    def __init__(
        self,
        processes: Sequence[Process],
        *,
        start_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lives = [_Life(process) for process in processes]
        self._start_seconds = start_seconds
        self._clock = clock

    def look(self) -> list[Died | Restarted]:
        """What has happened since the last look.

        Errors: LocalClusterError when a process has died more than 5 times within a minute.
        """
        now = self._clock()
        events = (self._step(life, now) for life in self._lives)
        return [event for event in events if event is not None]

    def _step(self, life: _Life, now: float) -> Died | Restarted | None:
        if life.process.running:
            return self._running(life, now)
        if life.restart_at is None:
            return self._died(life, now)
        if now >= life.restart_at:
            life.restart_at = None
            life.ready_by = now + self._start_seconds
            life.process.start()
        return None

    def _running(self, life: _Life, now: float) -> Restarted | None:
        if life.ready_by is None:
            return None
        if life.process.announcement is not None:
            life.ready_by = None
            return Restarted(process=life.process)
        if now >= life.ready_by:
            life.process.kill()
        return None

    def _died(self, life: _Life, now: float) -> Died:
        while life.deaths and life.deaths[0] <= now - WINDOW_SECONDS:
            life.deaths.popleft()
        life.deaths.append(now)
        if len(life.deaths) > MAX_RESTARTS:
            raise LocalClusterError(
                f"giving up: {life.process.name} was restarted {MAX_RESTARTS} times within"
                f" {WINDOW_SECONDS:g} s; {life.process.how_it_ended()}"
            )
        life.ready_by = None
        delay = min(FIRST_DELAY_SECONDS * 2.0 ** (len(life.deaths) - 1), MAX_DELAY_SECONDS)
        life.restart_at = now + delay
        return Died(
            process=life.process, how_it_ended=life.process.how_it_ended(), restart_in_seconds=delay
        )
