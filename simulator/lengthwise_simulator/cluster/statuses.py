"""What workers report of themselves, as late as routers receive it.

A worker sends a status when something has changed, at most every `status_seconds`, and as a
heartbeat. None is made that no router looks at: before a worker changes, it keeps what the last
instant at which a status was due would have shown.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Protocol, Self
from zlib import crc32

from lengthwise_policy.kv.prefix_cache import BlockEvents, PrefixCache
from lengthwise_policy.types import WorkerId
from lengthwise_simulator.cluster.spec import ClusterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedState:
    """The fields of a status that change."""

    blocks_free: int
    running_requests: int
    queued_requests: int
    queued_tokens: int
    queued_short_tokens: int = 0
    context_tokens: int = 0
    blocks_predicted: int = 0
    kv_bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One status."""

    number: int
    at: float
    state: ReportedState
    events: BlockEvents | None


class ReportingWorker(Protocol):
    worker_id: WorkerId
    blocks: PrefixCache

    def state(self) -> ReportedState: ...


class StatusFeed:
    """Of one worker, to `readers` routers, each of which takes every report once."""

    def __init__(
        self,
        *,
        state: Callable[[], ReportedState],
        events: Callable[[], BlockEvents | None],
        interval: float,
        phase: float,
        readers: int,
    ) -> None:
        """Statuses are due at `phase` and every `interval` after it."""
        self._state = state
        self._events = events
        self._interval = interval
        self._phase = phase
        self._reports: deque[Report] = deque()
        self._taken = [0] * readers
        self._changed_at = 0.0
        self._has_changed = False
        self._made = 0
        self.latest = Report(number=0, at=0.0, state=state(), events=events())

    @classmethod
    def of(cls, worker: "ReportingWorker", cluster: ClusterSpec) -> Self:
        """Workers report at different instants."""
        share = crc32(worker.worker_id.encode()) / 2**32
        return cls(
            state=worker.state,
            events=worker.blocks.take_events,
            interval=cluster.status_seconds,
            phase=(share - 1) * cluster.status_seconds,
            readers=cluster.routers,
        )

    def changing(self, now: float) -> None:
        """Something is about to change."""
        self._make(now)
        self._has_changed = True
        self._changed_at = now

    def take(self, reader: int, now: float) -> list[Report]:
        """What has come since the reader took last."""
        self._make(now)
        taken = self._taken[reader]
        self._taken[reader] = self._made
        if taken == self._made:
            return []
        found = [report for report in self._reports if report.number > taken]
        least = min(self._taken)
        while self._reports and self._reports[0].number <= least:
            self._reports.popleft()
        return found

    def _make(self, now: float) -> None:
        """The status that was due last, if anything changed before it and after the one before."""
        if not self._has_changed:
            return
        due = floor((now - self._phase) / self._interval) * self._interval + self._phase
        if due < self._changed_at:
            return
        self._has_changed = False
        self._made += 1
        self.latest = Report(number=self._made, at=due, state=self._state(), events=self._events())
        self._reports.append(self.latest)
