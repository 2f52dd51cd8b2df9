"""Cancels blocking calls that wait too long. gRPC's synchronous iterators know a deadline for the
whole call, none for the next message.

One thread per client, which lives only while calls are watched. A call's deadline moves with every
message, so the thread is not notified then: it wakes when the earliest deadline could have passed.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watch:
    """A watched call. Its own thread alone arms it."""

    def __init__(self, cancel: Callable[[], object], shortest: float) -> None:
        """`shortest`: no wait is armed with less."""
        self.expired = False
        self.shortest = shortest
        self.deadline = math.inf
        self._cancel = cancel

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """Within, the call is cancelled after so many seconds, and `expired` set."""
        self.deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self.deadline = math.inf

    def expire(self) -> None:
        self.expired = True
        self._cancel()


class Watchdog:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, cancel: Callable[[], object], *, shortest: float) -> Iterator[Watch]:
        """`cancel` is called from the watchdog's thread, and must not block."""
        watch = Watch(cancel, shortest)
        with self._changed:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="lengthwise-watchdog", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        try:
            yield watch
        finally:
            with self._changed:
                self._watches.discard(watch)
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._watches:
                now = time.monotonic()
                for watch in [watch for watch in self._watches if watch.deadline <= now]:
                    self._watches.discard(watch)
                    watch.expire()
                # A call that is not waiting now cannot expire before now + shortest.
                soonest = min(
                    (min(watch.deadline, now + watch.shortest) for watch in self._watches),
                    default=now,
                )
                self._changed.wait(soonest - now)
            self._thread = None
