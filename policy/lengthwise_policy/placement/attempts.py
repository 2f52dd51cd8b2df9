"""When a request is attempted again, when it waits, and when it has failed for good.

Over a path that has not failed this request it is attempted at once. Where every path has, or there
is none, waiting costs less than trying: a lost worker or transfer process is back in seconds. It
waits for another path, and tries a failed one again after pauses that double; after
`patience_seconds` without any other path it has failed. So it has after `max_attempts` failures of
workers, for the request itself may be what breaks them; failed links do not count, for no request
breaks a link, and each of them leaves fewer paths. Nor does a worker that is lost again: it is
back as it was, so that only the connection to it has failed. A busy worker is no failure of either:
it has room again as soon as others are done, or what this request gave up has been released.
"""

from lengthwise_policy.placement.blame import Blame, Standing

FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0


class Attempts:
    """Of one request. `now` never goes back."""

    def __init__(self, *, max_attempts: int, patience_seconds: float) -> None:
        self.blame = Blame()
        self._max_attempts = max_attempts
        self._patience_seconds = patience_seconds
        self._num_worker_failures = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._paused_until = 0.0
        self._lacking_since: float | None = (
            None  # from when on there was no path that had not failed
        )

    def progressed(self) -> None:
        """Tokens have come."""
        self._lacking_since = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def failed(self, blame: Blame, now: float, *, lost: bool = False, busy: bool = False) -> bool:
        """An attempt has; whether another may follow. `lost`: the worker's connection ended;
        `busy`: it had no room."""
        is_lost_again = lost and blame.workers <= self.blame.workers
        self.blame |= blame
        self._paused_until = now + self._pause_seconds
        if self._lacking_since is not None:
            self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
        if not (blame.links or is_lost_again or busy):
            self._num_worker_failures += 1
        return self._num_worker_failures < self._max_attempts

    def begin_at(self, best: Standing | None, now: float) -> float | None:
        """When the next attempt may begin, over the best path there is now; later than `now`: until
        then another path is to be waited for. None: it has failed for good.

        `best` is that path's standing, None where there is no path.
        """
        if best is not None and best < Standing.FAILED:
            self._lacking_since = None
            return now
        if self._lacking_since is None:
            self._lacking_since = now
        give_up_at = self._lacking_since + self._patience_seconds
        if now >= give_up_at:
            return None
        return give_up_at if best is None else min(max(self._paused_until, now), give_up_at)
