"""How many calls a server holds at once, and which of them yield."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from lengthwise_wire.errors import Overloaded

CallRefusal = Literal["too_many", "no_request", "unread"]
"""Why a server itself refused or ended a call: as many run as may; its request did not come in
time, or newer calls took its place; its caller did not take an answer."""

Count = Callable[[CallRefusal], None]

RETRY_SECONDS = 1.0


class Places:
    """The calls of one service. One more than there are places for is refused."""

    def __init__(self, limit: int, count: Count) -> None:
        self._limit = limit
        self._count = count
        self._taken = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Errors: Overloaded."""
        if self._taken >= self._limit:
            self._count("too_many")
            raise Overloaded(f"{self._limit} calls of this service run already", RETRY_SECONDS)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class YieldingPlaces:
    """Calls that cost nothing to begin, so that any number may come: the oldest yields to a new one
    where all places are taken. So callers that hold places and do nothing keep nobody out."""

    def __init__(self, limit: int, refusal: CallRefusal, count: Count) -> None:
        self._limit = limit
        self._refusal = refusal
        self._count = count
        self._oldest_first: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def taken(self, seconds: float | None = None) -> AsyncIterator[None]:
        """For so long at most. Errors: Overloaded when the time is over, or newer calls came."""
        place = asyncio.timeout(seconds)
        try:
            async with place:
                self._make_room()
                self._oldest_first[place] = None
                try:
                    yield
                finally:
                    self._oldest_first.pop(place, None)
        except TimeoutError:
            if not place.expired():
                raise
            self._count(self._refusal)
            if self._refusal == "no_request":
                reason = "the call's request did not arrive in time"
            else:
                reason = f"{self._limit} newer calls of this service run; begin it again"
            raise Overloaded(reason, RETRY_SECONDS) from None

    def _make_room(self) -> None:
        if len(self._oldest_first) >= self._limit:
            oldest = next(iter(self._oldest_first))
            del self._oldest_first[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
