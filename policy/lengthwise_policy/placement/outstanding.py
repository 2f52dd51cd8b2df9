"""What this router has placed at one worker, and how much of it the worker's status shows already.

A placement is unseen until a status has come that left SEEN_SECONDS after it or later: an earlier
one may have been on its way already, and a later one counts the request itself. Counted by both it
would make every queue look twice as long.
"""

from dataclasses import dataclass, field

SEEN_SECONDS = 0.05
"""Within which a request reaches its worker: two calls, and the decode worker's answer between two
of its steps."""

STATUSES_PER_SECOND = 2000
"""That a router asks all its workers for together. One costs it about 100 microseconds, nine tenths
of them gRPC's: its threads, and the passes of the event loop."""

SHORTEST_INTERVAL = 0.05
LONGEST_INTERVAL = 0.5
"""Seconds between two statuses of a worker that changes."""


def status_interval(num_workers: int) -> float:
    """Seconds between the statuses of each of so many workers: the more there are, the less does
    it matter that one looks older than it is."""
    return min(max(SHORTEST_INTERVAL, num_workers / STATUSES_PER_SECOND), LONGEST_INTERVAL)


@dataclass(slots=True, kw_only=True, eq=False)
class Placed:
    """One request's part at one worker."""

    tokens: int  # residual prompt tokens
    short_tokens: int = 0  # the same where they are of class "short" there, else 0
    local_tokens: int = 0  # the same where a decode worker computes them, until it has


@dataclass(slots=True)
class Outstanding:
    """Sums over what is placed."""

    requests: int = 0
    local_tokens: int = 0
    unseen_tokens: int = 0
    unseen_short_tokens: int = 0
    _unseen: dict[Placed, float] = field(default_factory=dict)  # when it was placed, oldest first

    @property
    def unseen_requests(self) -> int:
        return len(self._unseen)

    def add(self, placed: Placed, now: float) -> None:
        self.requests += 1
        self.local_tokens += placed.local_tokens
        self.unseen_tokens += placed.tokens
        self.unseen_short_tokens += placed.short_tokens
        self._unseen[placed] = now

    def remove(self, placed: Placed) -> None:
        """The request has ended there."""
        self.requests -= 1
        self.computed(placed)
        if placed in self._unseen:
            self._seen(placed)

    def computed(self, placed: Placed) -> None:
        """The decode worker has computed the prompt."""
        self.local_tokens -= placed.local_tokens
        placed.local_tokens = 0

    def status_came(self, now: float) -> None:
        while self._unseen:
            placed, at = next(iter(self._unseen.items()))
            if now - at < SEEN_SECONDS:
                break
            self._seen(placed)

    def _seen(self, placed: Placed) -> None:
        del self._unseen[placed]
        self.unseen_tokens -= placed.tokens
        self.unseen_short_tokens -= placed.short_tokens
