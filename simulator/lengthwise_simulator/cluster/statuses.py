"""What workers report of themselves, as late as routers receive it.

A worker sends a status when something worth it has changed, at most every `status_seconds`, and as
a heartbeat. None is made that no router looks at: before a worker changes, it keeps what the last
status that was due would have shown.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from lengthwise_policy.kv.prefix_cache import BlockEvents, PrefixCache
from lengthwise_simulator.cluster.spec import ClusterSpec


class ReportedState(NamedTuple):
    """The fields of a status that change."""

    blocks_free: int
    running_requests: int
    queued_requests: int
    queued_tokens: int
    queued_short_tokens: int = 0
    context_tokens: int = 0
    blocks_predicted: int = 0
    kv_bytes_per_second: float = 0.0
    draining: bool = False


class Report(NamedTuple):
    """One status."""

    number: int
    sent_at: float
    state: ReportedState
    events: tuple[BlockEvents, ...]


class StatusFeed:
    """Of one worker, to all routers, each of which takes every report once."""

    def __init__(
        self,
        *,
        state: Callable[[], ReportedState],
        blocks: PrefixCache,
        cluster: ClusterSpec,
        began_at: float,
    ) -> None:
        self._state = state
        self._blocks = blocks
        self._interval = cluster.status_seconds
        # Of a worker that is asked for few statuses each heartbeat counts.
        self._heartbeat = max(cluster.heartbeat_seconds, cluster.status_seconds)
        self._travel = cluster.call_seconds
        self._reports: deque[Report] = deque()
        self._events: list[BlockEvents] = []
        self._taken = [0] * cluster.routers
        self._sent_at = began_at
        self._due_at = inf  # of the next status, heartbeats excepted
        self._next_at = began_at + self._heartbeat  # of the next one of either kind
        self._made = 0

    def open(self) -> Report:
        """The first status, which routers have when they meet the worker."""
        return Report(number=0, sent_at=self._sent_at, state=self._state(), events=())

    def touch(self, now: float) -> None:
        """The worker's state is about to change: what was due before shows it as it is."""
        while now > self._next_at:
            due = self._next_at
            if self._due_at == inf:  # of heartbeats that say the same two are enough
                due += max((now - due) // self._heartbeat - 1, 0.0) * self._heartbeat
            self._send(due)

    def changed(self, now: float) -> None:
        """What has changed is worth a status before the next heartbeat."""
        self.touch(now)
        if self._due_at == inf:
            self._due_at = max(now, self._sent_at + self._interval)
            self._next_at = min(self._due_at, self._next_at)

    def turned(self, now: float) -> None:
        """A turn of the engine has ended, which reports what became of blocks."""
        self.changed(now)
        events = self._blocks.take_events()
        if events is not None:
            self._events.append(events)

    def take(self, reader: int, now: float) -> list[Report]:
        """What has reached this router since it took last."""
        self.touch(now)
        taken, until = self._taken[reader], now - self._travel
        if taken == self._made:
            return []
        found = [each for each in self._reports if each.number > taken and each.sent_at <= until]
        if found:
            self._taken[reader] = found[-1].number
            least = min(self._taken)
            while self._reports and self._reports[0].number <= least:
                self._reports.popleft()
        return found

    def _send(self, at: float) -> None:
        self._sent_at, self._due_at = at, inf
        self._next_at = at + self._heartbeat
        self._made += 1
        events, self._events = tuple(self._events), []
        self._reports.append(
            Report(number=self._made, sent_at=at, state=self._state(), events=events)
        )
