"""How a request waits: for its wakeup, for no longer than its deadline, and without letting its
caller's stream fall silent."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_wire.errors import DeadlineExceeded

T = TypeVar("T")

SLACK_SECONDS = 0.05
"""A caller's clock expires a network's delay before the router's, and its cancellation is what
arrives: so close to the deadline it is the deadline."""

Keepalive = Callable[[], Awaitable[None]]
"""Sends the caller something that has no meaning."""


class RequestDeadline:
    """Every wait of a request goes through here. Times are of the monotonic clock."""

    def __init__(
        self, *, wakeup: Wakeup, seconds: float, keepalive_seconds: float, keepalive: Keepalive
    ) -> None:
        """`seconds` from now; `keepalive` is awaited when nothing was sent for
        `keepalive_seconds`."""
        self.wakeup = wakeup
        self.reason = ""
        """What the request has waited for last, or why an attempt at it failed."""
        self.arrived_at = self._sent_at = time.monotonic()
        self._ends_at = self.arrived_at + seconds
        self.keepalive_seconds = keepalive_seconds
        self._keepalive = keepalive

    def beside(self) -> "RequestDeadline":
        """Of a part of the request that waits by itself, and leaves the caller's stream alone."""
        other = copy.copy(self)
        other.wakeup, other._keepalive = self.wakeup.another(), _nothing
        return other

    async def keep_alive(self) -> None:
        """Nothing came for so long."""
        await self._keepalive()

    @property
    def remaining_seconds(self) -> float:
        return self._ends_at - time.monotonic()

    @property
    def has_passed(self) -> bool:
        """Whether a request that is cancelled now is cancelled for its deadline."""
        return self.remaining_seconds < SLACK_SECONDS

    def sent(self, now: float) -> None:
        """The caller has taken a message."""
        self._sent_at = now

    async def wait(self, until: float = float("inf")) -> float:
        """Returns the time when rung, or about `until`, or earlier. Errors: DeadlineExceeded."""
        keepalive_at = self._sent_at + self.keepalive_seconds
        await self.wakeup.wait(min(until, keepalive_at, self._ends_at))
        now = time.monotonic()
        if now >= self._ends_at:
            seconds = self._ends_at - self.arrived_at
            reason = f": {self.reason}" if self.reason else ""
            raise DeadlineExceeded(
                f"the deadline of {seconds:.3g} s passed before the last token{reason}"
            )
        if now >= keepalive_at:
            await self._keepalive()
            self._sent_at = now
        return now

    async def until_done(self, pending: Any, check: Callable[[], None] | None = None) -> None:
        """Returns when a call or future is done; cancels it when the wait ends otherwise.

        `check` is called at every wakeup, and may raise.
        """
        pending.add_done_callback(self.wakeup.ring)
        try:
            while not pending.done():
                await self.wait()
                if check is not None:
                    check()
        finally:
            pending.cancel()


async def _nothing() -> None:
    """The keepalive of what is no stream of its own."""


async def in_time(answer: Awaitable[T], seconds: float) -> T:
    """Of calls that are one answer, whose callers may have given no deadline. Errors:
    DeadlineExceeded."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded(f"there was no answer within {seconds:g} s") from None
