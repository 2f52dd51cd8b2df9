"""`Worker.Watch`: every watcher gets the newest status at once, on change and as a heartbeat."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from lengthwise.v1 import worker_pb2, worker_pb2_grpc
from lengthwise_runtime.block_log import BlockLog, Cursor

HEARTBEAT_SECONDS = 0.5
"""A fourth of the silence (2 s) after which a router gives a worker up: three may be lost or
late."""

CHANGE_SECONDS = 0.05
"""Changes are told at most this often: bursts of requests must not become bursts of statuses."""


class StatusBoard(worker_pb2_grpc.WorkerServicer):
    """Holds no state of its own: asks `current` for a status whenever one is due.

    Each watcher is also told what happened to the blocks in `blocks` since its own last status.
    """

    def __init__(
        self, current: Callable[[], worker_pb2.WorkerStatus], blocks: BlockLog | None = None
    ) -> None:
        self._current = current
        self._blocks = blocks
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """To be called on the event loop when the status is worth telling before the heartbeat."""
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def Watch(
        self,
        request: worker_pb2.WatchRequest,
        context: grpc.aio.ServicerContext[worker_pb2.WatchRequest, worker_pb2.WorkerStatus],
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        cursor: Cursor | None = None
        while True:
            changed = self._changed
            status = self._current()
            if self._blocks is not None:
                events, cursor = self._blocks.since(cursor)
                status = _with_events(status, events)
            yield status
            await asyncio.sleep(CHANGE_SECONDS)
            if cursor is not None and cursor.unsent:
                continue
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS - CHANGE_SECONDS)
            except TimeoutError:
                continue


def _with_events(
    status: worker_pb2.WorkerStatus, events: worker_pb2.BlockEvents | None
) -> worker_pb2.WorkerStatus:
    """A copy: `current` may give the same object to every watcher."""
    copy = worker_pb2.WorkerStatus()
    copy.CopyFrom(status)
    if events is not None:
        copy.block_events.CopyFrom(events)
    return copy
