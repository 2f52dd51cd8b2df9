"""One stream of tokens per router. Steps that follow one another fast share a message, and so do
those that came while a router was slow."""

import asyncio
import time
from collections.abc import AsyncGenerator

from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_policy.decode.gathering import gathering_seconds
from lengthwise_wire.errors import NoWorkerAvailable, Stale
from lengthwise_wire.v1 import decode_pb2

MAX_ROWS = 1 << 18
"""A router this far behind (17 minutes of 256 tokens per second) is not reading any more."""


class _Stream:
    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._due_at = 0.0  # rows that are not urgent wait until then
        self._timer: asyncio.TimerHandle | None = None
        self.rows = RouterRows()
        self.changed = asyncio.Event()
        self.ended: NoWorkerAvailable | Stale | None = None

    def add(self, rows: RouterRows) -> None:
        self.rows.extend(rows)
        if self.rows.urgent or time.monotonic() >= self._due_at:
            self.changed.set()
        else:
            self._wait()

    def take(self) -> RouterRows:
        """What is to leave now."""
        now = time.monotonic()
        if now < self._due_at and self.ended is None:
            urgent, self.rows = self.rows.part(urgent=True), self.rows.part(urgent=False)
            if len(self.rows):
                self._wait()
            return urgent
        rows, self.rows = self.rows, RouterRows()
        num_requests = len(set(rows.reservations))
        self._due_at = now + gathering_seconds(self._interval_seconds, num_requests)
        return rows

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._due_at, self._fall_due)

    def _fall_due(self) -> None:
        self._timer = None
        self._due_at = 0.0
        self.changed.set()

    def end(self, error: NoWorkerAvailable | Stale) -> None:
        self.ended = error
        self.changed.set()


class Publisher:
    """Runs on the event loop."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}

    def is_open(self, router_id: str) -> bool:
        return router_id in self._streams

    def publish(self, router_id: str, rows: RouterRows) -> None:
        """Rows for routers without a stream are dropped: their requests are being released."""
        stream = self._streams.get(router_id)
        if stream is None:
            return
        if len(stream.rows) > MAX_ROWS:
            stream.end(NoWorkerAvailable(f"the router reads too slowly: {MAX_ROWS} tokens wait"))
            return
        stream.add(rows)

    async def stream(
        self, router_id: str, interval_seconds: float = 0.0
    ) -> AsyncGenerator[decode_pb2.TokenBatch]:
        """All that is published for this router until it leaves or another stream takes over;
        `interval_seconds` as in `gathering_seconds`.

        An empty batch comes first: the stream is open.
        """
        older = self._streams.get(router_id)
        if older is not None:
            older.end(Stale("another Tokens stream was opened under this router's name"))
        stream = self._streams[router_id] = _Stream(interval_seconds)
        try:
            yield decode_pb2.TokenBatch()
            # What was published before the end is sent before the error, even if the end came while
            # the batch before was on its way.
            while stream.ended is None or len(stream.rows):
                await stream.changed.wait()
                stream.changed.clear()
                if len(rows := stream.take()):
                    yield rows.to_wire()
            raise stream.ended
        finally:
            if self._streams.get(router_id) is stream:
                del self._streams[router_id]

    def close(self) -> None:
        """Ends every stream."""
        for stream in self._streams.values():
            stream.end(NoWorkerAvailable("this decode worker is going away"))
