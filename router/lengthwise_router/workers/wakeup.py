"""What a request waits on. A request waits for many things at once (a reply, tokens, a worker's
loss, a deadline, its next keepalive) and a task or timer object for each would cost more than the
request itself; so it waits on one future, and one sweep stands in for all timers."""

import asyncio
import time
from collections.abc import Callable

SWEEP_SECONDS = 0.05
"""How late a wait may end. Looking at 1,000 waiting requests takes 20 microseconds."""


class Wakeup:
    """Ends one request's waits. It remembers being rung, so nothing is missed between two waits."""

    __slots__ = ("_future", "_rung", "_waiting", "until")

    def __init__(self, waiting: "set[Wakeup]") -> None:
        self._waiting = waiting
        self._future: asyncio.Future[None] | None = None
        self._rung = False
        self.until = 0.0

    def another(self) -> "Wakeup":
        """Of another request."""
        return Wakeup(self._waiting)

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
