"""Whether a process lives and serves, as probes ask over HTTP and by gRPC.

The kubelet's gRPC probes speak no TLS, and not every process has a gRPC server: these are answered
over HTTP, beside the metrics, by another thread than the event loop's, so that a loop that is stuck
is reported and not merely silent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

BEAT_SECONDS = 0.5

STUCK_SECONDS = 5.0
"""No callback of any process takes a tenth of it; a machine that swaps is let be."""


class Liveness:
    """Life: construct, `start` on the event loop, set `serving`. The loop's end is its end."""

    def __init__(self) -> None:
        self.serving = False
        self.num_tasks = 0
        """That have not ended, at the last beat. A number that only grows is a leak."""
        self._beat_at: float | None = None

    def start(self) -> None:
        """From now on the running event loop is expected to turn. Safe to call again."""
        if self._beat_at is None:
            self._beat(asyncio.get_running_loop())

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat_at = time.monotonic()
        self.num_tasks = len(asyncio.all_tasks(loop))
        loop.call_later(BEAT_SECONDS, self._beat, loop)

    def stuck(self) -> str:
        """Why only a new start would help; empty while there is no reason. Safe in any thread."""
        if self._beat_at is None:
            return ""
        silent = time.monotonic() - self._beat_at
        return f"the event loop has not turned for {silent:.1f} s" if silent > STUCK_SECONDS else ""

    def trouble(self) -> str:
        """Why no work should be sent here; empty while there is no reason. Safe in any thread."""
        return self.stuck() or ("" if self.serving else "not serving: it starts or drains")


_Response = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """The protocol of gRPC's health checks. Why not the servicer of its package: there, a watcher
    that reads nothing holds a lock that every change of its service's status waits for."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, statuses: Mapping[str, bool]) -> None:
        """Whether each of these services serves; the others stay as they are."""
        for service, is_serving in statuses.items():
            self._statuses[service] = _Response.SERVING if is_serving else _Response.NOT_SERVING
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=status)

    async def List(
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(
            statuses={name: _Response(status=status) for name, status in self._statuses.items()}
        )

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _Response.SERVICE_UNKNOWN)
            if status != told:
                yield _Response(status=status)
                told = status
            await changed.wait()
