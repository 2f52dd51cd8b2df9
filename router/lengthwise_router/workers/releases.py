"""Releases reservations. A request that ends early must not wait for this, so numbers are
collected, and one task sends them in batches for as long as the worker lives. What is lost with the
worker is released by its leases and by the end of the Tokens stream."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc

from lengthwise_wire.v1 import decode_pb2

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
RETRY_SECONDS = 0.1
MAX_WAITING = 65_536
"""Beyond that a worker has long ceased to respond; the oldest are left to their leases."""


class Releases:
    """Reservations at one decode worker that are no longer needed."""

    def __init__(self, release: Callable[..., Awaitable[object]], router_id: str) -> None:
        self._release = release
        self._router_id = router_id
        self._waiting: dict[int, None] = {}  # a set in the order of arrival
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, reservation: int) -> None:
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[reservation] = None
        self._idle.clear()
        self._changed.set()

    async def flushed(self) -> None:
        """Returns when everything has been released."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled, which is when the worker is lost."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if not await self._send(list(self._waiting)):
                    self._changed.set()
                    await asyncio.sleep(RETRY_SECONDS)
                elif not self._waiting:
                    self._idle.set()
        finally:
            self._waiting.clear()
            self._idle.set()

    async def _send(self, reservations: list[int]) -> bool:
        request = decode_pb2.ReleaseRequest(router_id=self._router_id, reservations=reservations)
        try:
            await self._release(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            logger.warning("a release failed, retrying: %s", error.details())
            return False
        for reservation in reservations:
            self._waiting.pop(reservation, None)
        return True
