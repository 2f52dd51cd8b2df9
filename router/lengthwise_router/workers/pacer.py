"""When messages of many requests leave together."""

import asyncio
import time

from lengthwise_router.workers.wakeup import Wakeup


class Pacer:
    """Keeps a request's messages apart, and lets those of all requests leave together.

    A message costs the router 45 to 80 microseconds of CPU whatever it holds, the less the more
    leave at one time. So time is cut into intervals, and within one a request sends one message:
    the first tokens at once, those that follow at the interval's end.
    """

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._waiting: list[Wakeup] = []
        self._is_armed = False

    def end_of_interval(self, now: float) -> float:
        """When, after a message at `now` (monotonic clock), the next may leave."""
        return now - now % self._interval + self._interval if self._interval else now

    def ring_at_end(self, wakeup: Wakeup) -> None:
        """Rings at the end of the present interval."""
        self._waiting.append(wakeup)
        if not self._is_armed:
            self._is_armed = True
            loop = asyncio.get_running_loop()
            # The loop's clock is the monotonic one.
            loop.call_at(self.end_of_interval(time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._is_armed = False
        waiting, self._waiting = self._waiting, []
        for wakeup in waiting:
            wakeup.ring()
