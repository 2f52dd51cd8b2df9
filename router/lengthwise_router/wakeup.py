"""What a request waits on. A request waits for many things at once (a reply, tokens, a worker's
death, a deadline, its next keepalive) and a task or timer object for each would cost more than the
request itself; so it waits on one future, and one sweep stands in for all timers.
"""

import asyncio
import time
from collections.abc import Callable

SWEEP_SECONDS = 0.05
"""How late a wait may end. Looking at 1,000 waiting requests takes 20 microseconds."""


class Wakeup:
    """One request's bell. It remembers being rung, so nothing is missed between two waits."""

    __slots__ = ("_future", "_rung", "_waiting", "until")

    def __init__(self, waiting: "set[Wakeup]") -> None:
        self._waiting = waiting
        self._future: asyncio.Future[None] | None = None
        self._rung = False
        self.until = 0.0

    def ring(self, _: object = None) -> None:
        """Ends the wait, or the next one. Takes and ignores an argument so that it can be a done
        callback."""
        self._rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, until: float) -> None:
        """Returns when rung since the last wait, or up to SWEEP_SECONDS after `until` (monotonic
        clock)."""
        if not self._rung:
            self.until = until
            self._future = asyncio.get_running_loop().create_future()
            self._waiting.add(self)
            try:
                await self._future
            finally:
                self._waiting.discard(self)
                self._future = None
        self._rung = False


class Wakeups:
    """All waiting requests, and the sweep over them."""

    def __init__(self) -> None:
        self._waiting: set[Wakeup] = set()

    def new(self) -> Wakeup:
        return Wakeup(self._waiting)

    async def run(self, on_sweep: Callable[[float], None]) -> None:
        """Never returns. `on_sweep` is called with the time at every sweep."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            on_sweep(now)
            for wakeup in tuple(self._waiting):
                if wakeup.until <= now:
                    wakeup.ring()


class Pacer:
    """Keeps a request's messages apart: rings those whose next message is due.

    A message costs the router about 45 microseconds of CPU whatever it holds, so tokens that follow
    each other faster than `interval_seconds` leave together.
    """

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self._due: list[tuple[float, Wakeup]] = []
        self._timer: asyncio.TimerHandle | None = None

    def ring_at(self, at: float, wakeup: Wakeup) -> None:
        """Rings at `at` (monotonic clock), or up to a quarter of the interval later."""
        self._due.append((at, wakeup))
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.interval_seconds / 4, self._ring_due)

    def _ring_due(self) -> None:
        now = time.monotonic()
        later = []
        for entry in self._due:
            if entry[0] <= now:
                entry[1].ring()
            else:
                later.append(entry)
        self._due = later
        self._timer = None
        if later:
            self._arm()
