"""The Worker service: every watcher receives the newest status at once, on change and as a
heartbeat; flexible workers change their role on request."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from lengthwise_policy.types import Role
from lengthwise_runtime.block_log import BlockLog, Cursor
from lengthwise_wire.convert import ROLES, ROLES_ON_WIRE
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

HEARTBEAT_SECONDS = 0.5
"""A fourth of the silence (2 s) after which a router gives a worker up: three may be lost or
late."""

CHANGE_SECONDS = 0.05
"""At most this often, so that bursts of requests do not become bursts of statuses."""

LONGEST_SECONDS = 0.75
"""Between two statuses of ordinary changes, and between heartbeats, for a watcher that asks for
fewer: of a thousand workers each heartbeat counts."""


# Begins the change to a role and returns the one before. Raises RoleRefused.
SetRole = Callable[[Role], Role]


class RoleRefused(Exception):
    """The worker cannot change its role, or not now; the message has the reason."""


def keep_role(_role: Role) -> Role:
    """Of workers that serve one role."""
    raise RoleRefused(
        "this worker serves one role for all its life; run lengthwise-flexible-worker where roles"
        " are to change"
    )


class StatusBoard(worker_pb2_grpc.WorkerServicer):
    """Asks `current` for a status whenever one is due, and adds who watches.

    Each status has what happened to the blocks in `blocks` since the watcher's last one.
    """

    def __init__(
        self, current: Callable[[], worker_pb2.WorkerStatus], blocks: BlockLog, set_role: SetRole
    ) -> None:
        self._current = current
        self._blocks = blocks
        self._set_role = set_role
        self._changed = asyncio.Event()
        self._changed_urgently = asyncio.Event()
        self._closed = False
        self._routers: Counter[str] = Counter()  # their watches

    def changed(self, *, urgent: bool = False) -> None:
        """The status is worth reporting before the heartbeat, and with `urgent` before the interval
        that a watcher has asked for; call it on the event loop."""
        event, self._changed = self._changed, asyncio.Event()
        event.set()
        if urgent:
            event, self._changed_urgently = self._changed_urgently, asyncio.Event()
            event.set()

    def close(self) -> None:
        """Every watcher receives the status once more, and the end of its stream."""
        self._closed = True
        self.changed(urgent=True)

    async def SetRole(
        self, request: worker_pb2.SetRoleRequest, context: Context
    ) -> worker_pb2.SetRoleResponse:
        role = ROLES.get(request.role)
        if role is None:
            raise InvalidRequest(f"role: got {request.role}, expected ROLE_PREFILL or ROLE_DECODE")
        try:
            previous = self._set_role(role)
        except RoleRefused as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return worker_pb2.SetRoleResponse(previous=ROLES_ON_WIRE[previous])

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        interval = min(max(CHANGE_SECONDS, request.interval_seconds), LONGEST_SECONDS)
        if not request.router_id:
            async for status in self._statuses(interval):
                yield status
            return
        self._routers[request.router_id] += 1
        try:
            async for status in self._statuses(interval):
                yield status
        finally:
            self._routers[request.router_id] -= 1
            if not self._routers[request.router_id]:
                del self._routers[request.router_id]

    async def _statuses(self, interval: float) -> AsyncIterator[worker_pb2.WorkerStatus]:
        cursor: Cursor | None = None
        while True:
            changed, changed_urgently = self._changed, self._changed_urgently
            is_last = self._closed
            events, cursor = self._blocks.since(cursor)
            status = worker_pb2.WorkerStatus()
            status.CopyFrom(self._current())  # which may be one object for every watcher
            status.routers = len(self._routers)
            if events is not None:
                status.block_events.CopyFrom(events)
            yield status
            if is_last:
                return
            await asyncio.sleep(CHANGE_SECONDS)
            if cursor.unsent:
                continue
            if await _happens(changed_urgently, interval - CHANGE_SECONDS):
                continue
            await _happens(changed, HEARTBEAT_SECONDS - interval)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether it does within so many seconds."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
