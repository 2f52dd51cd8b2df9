"""What a group of pools needed lately, in whole workers.

Scaling in trusts only a time that was watched, so data that was missing for long, a manual edit and
a change of leader all begin it anew.
"""

from collections import deque
from math import ceil, inf

from lengthwise_policy.scaling.state import Demand, Reason

MAX_GAP_SECONDS = 30.0
"""Without a demand. What came in a shorter gap is in the rates after it, which are taken over a
minute."""

ROUNDING = 1e-9
"""Workers; so that arithmetic on floats never makes one more."""


class DemandWindow:
    """Demands of the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Falling: an older demand that is no larger than a newer one is never the maximum again.
        self._largest: deque[tuple[float, float]] = deque()
        self._since = inf
        self._idle_since: float | None = None
        self._now = -inf
        self._last: Demand | None = None

    def restart(self) -> None:
        """What was seen before counts no more."""
        self._largest.clear()
        self._since = inf
        self._idle_since = None
        self._last = None

    def miss(self, now: float) -> None:
        """The demand of this instant is not known."""
        if now - self._now > MAX_GAP_SECONDS:
            self.restart()

    def see(self, now: float, demand: Demand) -> None:
        if now - self._now > self._seconds:
            self.restart()  # not watched meanwhile
        self._now, self._last = now, demand
        while self._largest and self._largest[-1][1] <= demand.workers:
            self._largest.pop()
        self._largest.append((now, demand.workers))
        while self._largest[0][0] < now - self._seconds:
            self._largest.popleft()
        self._since = min(self._since, now)
        if not demand.is_idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now

    @property
    def idle_seconds(self) -> float | None:
        """Since when there has been no work at all; None while there is some."""
        return None if self._idle_since is None else self._now - self._idle_since

    @property
    def reason(self) -> Reason:
        """The present demand's."""
        if self._last is None:
            return Reason("unwatched", "no demand was seen yet")
        return self._last.reason

    def needed_now(self) -> int:
        """Workers that carry the present demand; any work at all needs one."""
        if self._last is None:
            return 0
        return max(ceil(self._last.workers - ROUNDING), int(not self._last.is_idle))

    def largest(self, seconds: float) -> float | None:
        """Demand within the last `seconds`; None when they were not all watched."""
        if self._now - self._since < min(seconds, self._seconds):
            return None
        begin = self._now - seconds
        return next(workers for at, workers in self._largest if at >= begin)

    def enough(self, seconds: float, margin: float) -> int | None:
        """At least 1: workers that would have carried the last `seconds` with `margin` to spare.

        The smallest n with demand <= n (1 - margin). With N workers there, that is the test
        whether each of n could bear the load of one of N times N / n. None: not watched so long.
        """
        largest = self.largest(seconds)
        if largest is None:
            return None
        return max(ceil(largest / (1 - margin) - ROUNDING), self.needed_now(), 1)
