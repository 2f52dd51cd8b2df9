"""One stream of tokens per router. While a router is slow its rows gather and leave as one
message."""

import asyncio
from collections.abc import AsyncGenerator

from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_wire.errors import NoWorkerAvailable, Stale
from lengthwise_wire.v1 import decode_pb2

MAX_ROWS = 1 << 18
"""A router this far behind (17 minutes of 256 tokens per second) is not reading any more."""


class _Stream:
    def __init__(self) -> None:
        self.rows = RouterRows()
        self.changed = asyncio.Event()
        self.ended: NoWorkerAvailable | Stale | None = None

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
        stream.rows.extend(rows)
        stream.changed.set()

    async def stream(self, router_id: str) -> AsyncGenerator[decode_pb2.TokenBatch]:
        """All that is published for this router until it leaves or another stream takes over.

        An empty batch comes first: the stream is open.
        """
        older = self._streams.get(router_id)
        if older is not None:
            older.end(Stale("another Tokens stream was opened under this router's name"))
        stream = self._streams[router_id] = _Stream()
        try:
            yield decode_pb2.TokenBatch()
            # What was published before the end is sent before the error, even if the end came while
            # the batch before was on its way.
            while stream.ended is None or len(stream.rows):
                await stream.changed.wait()
                stream.changed.clear()
                if len(stream.rows):
                    rows, stream.rows = stream.rows, RouterRows()
                    yield rows.to_wire()
            raise stream.ended
        finally:
            if self._streams.get(router_id) is stream:
                del self._streams[router_id]

    def close(self) -> None:
        """Ends every stream."""
        for stream in self._streams.values():
            stream.end(NoWorkerAvailable("this decode worker is going away"))
