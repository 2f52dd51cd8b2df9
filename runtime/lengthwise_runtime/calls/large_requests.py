"""Which call's request is read next where callers send large ones. Reading and checking 5 MiB holds
the event loop up for 10 to 25 ms, so that four callers who send them as fast as they can would have
it for themselves."""

import asyncio
import time
from typing import Any

LARGE_BYTES = 1 << 16

BYTES_PER_SECOND = 16 << 20
"""Of all large requests: a tenth of the event loop's time, and four million tokens of text."""

BURST_BYTES = 8 << 20
"""So many may come at once."""

REMEMBERED_SECONDS = 2.0
"""A connection takes turns for so long after its last large request."""


class LargeRequests:
    """Connections that sent a large request lately take turns in reading another, at the pace of
    `BYTES_PER_SECOND` in all; what others send is read at once."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}  # by peer: when and how large; oldest first
        self._read_until = 0.0  # reading all so far at that pace would have taken until then
        self._turn = asyncio.Lock()

    async def read(self, context: Any) -> bytes | None:
        """A call's next request; None where there is none. To be given a deadline."""
        peer = context.peer()
        expected = await self._wait(peer) if self._forget() and peer in self._last else 0
        request = await context.read()
        if not isinstance(request, bytes):  # gRPC's EOF
            return None
        size = len(request)
        if size > LARGE_BYTES:
            self._last.pop(peer, None)
            self._last[peer] = (time.monotonic(), size)
        if max(size, expected) > LARGE_BYTES:
            self._charge(size - expected)
        return request

    async def _wait(self, peer: str) -> int:
        """Returns in this connection's turn how many bytes were charged: as many as last time, for
        what comes is known only when it was read."""
        async with self._turn:
            behind = self._read_until - time.monotonic() - BURST_BYTES / BYTES_PER_SECOND
            if behind > 0:
                await asyncio.sleep(behind)
            _, expected = self._last.get(peer, (0.0, 0))
            self._charge(expected)
            return expected

    def _charge(self, num_bytes: int) -> None:
        self._read_until = max(self._read_until, time.monotonic()) + num_bytes / BYTES_PER_SECOND

    def _forget(self) -> int:
        """Drops what is too old; returns how many connections are left."""
        too_old = time.monotonic() - REMEMBERED_SECONDS
        while self._last:
            peer = next(iter(self._last))
            if self._last[peer][0] > too_old:
                break
            del self._last[peer]
        return len(self._last)
