"""What this router has placed at one worker, and how much of it the worker's status shows already.

A placement is unseen until a second status has come after it. The first may have been on
its way already; the second lies at least the statuses' interval (0.05 s) after it, and by then the
worker counts the request itself. Counted by both it would make every queue look twice as long.
"""

from dataclasses import dataclass, field


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
    _newest: set[Placed] = field(default_factory=set)
    _older: set[Placed] = field(default_factory=set)  # one status has come since

    @property
    def unseen_requests(self) -> int:
        return len(self._newest) + len(self._older)

    def add(self, placed: Placed) -> None:
        self.requests += 1
        self.local_tokens += placed.local_tokens
        self.unseen_tokens += placed.tokens
        self.unseen_short_tokens += placed.short_tokens
        self._newest.add(placed)

    def remove(self, placed: Placed) -> None:
        """The request has ended there."""
        self.requests -= 1
        self.computed(placed)
        for generation in (self._newest, self._older):
            if placed in generation:
                generation.remove(placed)
                self._seen(placed)

    def computed(self, placed: Placed) -> None:
        """The decode worker has computed the prompt."""
        self.local_tokens -= placed.local_tokens
        placed.local_tokens = 0

    def status_came(self) -> None:
        for placed in self._older:
            self._seen(placed)
        self._older, self._newest = self._newest, set()

    def _seen(self, placed: Placed) -> None:
        self.unseen_tokens -= placed.tokens
        self.unseen_short_tokens -= placed.short_tokens
