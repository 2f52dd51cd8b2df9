"""Reports to the operator: log lines, metrics, and Events on the pools' Deployments.

An error is counted each time, and reported once per REPEAT_SECONDS, reason and query; a report
never fails its caller. Events are written by a task of their own, from a bounded
queue, so that an API server that is away holds nothing up.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.kubernetes.api_server import ApiServer, Object
from lengthwise_autoscaler.metrics import AutoscalerMetrics

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 300.0

MAX_WAITING = 64
"""Events; more are dropped, for the log has them too."""

MAX_MESSAGE = 1000
"""The API server refuses Events with more than 1024 bytes."""

EventReason = Literal["ScaledOut", "ScaledIn", "RoleFlipped", "ScalingFailed", "ScalingPaused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    deployment: str
    uid: str
    reason: EventReason
    message: str


class Reporter:
    """`run` is a task for as long as events are to be written."""

    def __init__(
        self,
        api: ApiServer,
        metrics: AutoscalerMetrics,
        deployments: Mapping[str, str],
        *,
        writes_events: bool,
    ) -> None:
        """`deployments`: names by pool. Without `writes_events` there are only logs and metrics."""
        self._api = api
        self._metrics = metrics
        self._deployments = deployments
        self._writes_events = writes_events
        self._uids: dict[str, str] = {}  # by pool
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(MAX_WAITING)
        self._reported_at: dict[tuple[str, ...], float] = {}  # when, by (pool, reason, query)

    def knows(self, uids: Mapping[str, str]) -> None:
        """Of the pools' Deployments, so that Events are found with them."""
        self._uids.update(uids)

    def error(self, error: ScalingError) -> None:
        self._metrics.error(error.reason)
        key = error.pool, error.reason, error.query
        if not self._is_due(key):
            logger.debug("%s: %s", error.reason, error)
            return
        where = f" (pool {error.pool})" if error.pool else ""
        logger.error("%s%s: %s", error.reason, where, error)
        for pool in (error.pool,) if error.pool else self._deployments:
            self.event(pool, "ScalingFailed", f"{error.reason}: {error}")

    def event(self, pool: str, reason: EventReason, message: str) -> None:
        """Written soon, if it can be."""
        deployment = self._deployments.get(pool)  # a fixed pool need not have one
        if not self._writes_events or deployment is None:
            return
        event = _Event(
            deployment=deployment,
            uid=self._uids.get(pool, ""),
            reason=reason,
            message=message,
        )
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            logger.debug("an Event is dropped: %s", event)

    async def run(self) -> None:
        while True:
            event = await self._queue.get()
            try:
                await self._api.ask("create", "events", body=self._body(event))
            except ScalingError as error:
                # Not an Event again: that would go on for ever.
                self._metrics.error(error.reason)
                if self._is_due(("events", error.reason)):
                    logger.warning("an Event is lost: %s", error)
            finally:
                self._queue.task_done()

    async def flush(self, seconds: float) -> None:
        """Waits until what was reported is written, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            logger.warning("%d Events are lost", self._queue.qsize())

    def _is_due(self, key: tuple[str, ...]) -> bool:
        now = time.monotonic()
        if now - self._reported_at.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._reported_at[key] = now
        return True

    def _body(self, event: _Event) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        is_bad = event.reason == "ScalingFailed"
        involved = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": event.deployment,
            "namespace": self._api.namespace,
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{event.deployment}."},
            "involvedObject": involved | ({"uid": event.uid} if event.uid else {}),
            "reason": event.reason,
            "message": event.message.encode()[:MAX_MESSAGE].decode(errors="ignore"),
            "type": "Warning" if is_bad else "Normal",
            "source": {"component": "lengthwise-autoscaler"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
