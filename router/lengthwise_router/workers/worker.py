"""One worker as the router sees it: its last status, its calls, and what the router has placed on
it.

    connecting ──status──▶ ready ◀──▶ draining | stalled
        ▲                    │
        └────── lost ◀───────┘              incompatible: its status shows that it serves otherwise

What depends on a worker registers with it, and is notified the moment it is lost.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol

import grpc

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LENGTH_CLASSES, LengthClass
from lengthwise_policy.placement.outstanding import Outstanding, Placed
from lengthwise_policy.placement.worker_view import WorkerView, is_dated, still_queued
from lengthwise_policy.types import Role, WorkerId
from lengthwise_router.labels import Condition, LossReason
from lengthwise_router.workers.releases import Releases
from lengthwise_router.workers.token_streams import TokenFanOut
from lengthwise_wire.convert import ROLES, cost_from_wire
from lengthwise_wire.v1 import decode_pb2_grpc, prefill_pb2_grpc, worker_pb2

logger = logging.getLogger(__name__)

_LENGTH_CLASSES: dict[str, LengthClass] = {name: name for name in LENGTH_CLASSES}


class Dependent(Protocol):
    """Something that cannot go on without a worker."""

    def worker_lost(self, worker: "Worker", reason: LossReason) -> None: ...


class Worker:
    """Changed by the fleet, which watches it; read and called by dispatches."""

    def __init__(
        self,
        address: str,
        channel: grpc.aio.Channel,
        router_id: str,
        model: str,
        changed: Callable[["Worker"], None],
    ) -> None:
        """`model`: what it is taken to serve until it says so; empty: nothing. `changed`: called
        whenever its view, or whether it is usable, may have changed."""
        self.address = address
        self.model = model  # its own once it has reported a served one, also when it is lost
        self.router_id = router_id
        self.streams = TokenFanOut()
        self.is_streaming = False
        self.lost = asyncio.Event()
        self.has_left = False  # lost, after it had drained
        self.status: worker_pb2.WorkerStatus | None = None
        self.condition: Condition = "connecting"
        self.role: Role = "prefill"
        self.dependents: set[Dependent] = set()
        self.outstanding = Outstanding()
        self.received_at = time.monotonic()
        self.presumed_cost: CostModel | None = None  # its peers', until it reports its own
        self._stepped_at = 0.0
        self._refusal = ""
        # That are there, beside those no status shows, until the next one.
        self._told_tokens = self._told_requests = 0
        self._queued_at = self._looked_at = 0.0
        self._view: WorkerView | None = None
        self._changed = changed
        self.call_through(channel)

    def call_through(self, channel: grpc.aio.Channel) -> None:
        """From now on it is called over this channel; nothing runs over the one before."""
        self.channel = channel
        # Made once: making one costs as much as a call.
        self.prefill = prefill_pb2_grpc.PrefillWorkerStub(channel).Prefill
        decode = decode_pb2_grpc.DecodeWorkerStub(channel)
        self.reserve = decode.Reserve
        self.releases = Releases(decode.Release, self.router_id)

    def __repr__(self) -> str:
        return f"<{self.role} worker {self.worker_id or self.address} {self.condition}>"

    @property
    def is_usable(self) -> bool:
        """Whether policies may look at it; draining workers go on with what they have."""
        return self.condition in ("ready", "draining") and (
            self.role == "prefill" or self.is_streaming
        )

    @property
    def offers(self) -> tuple[bool, bool]:
        """What a request that waits hopes for: that it may be used, and that KV can come across."""
        return self.is_usable, self.status is not None and not self.status.transfer_down

    @property
    def worker_id(self) -> WorkerId:
        return WorkerId(self.status.worker_id if self.status is not None else "")

    @property
    def short_tokens(self) -> int:
        """Residual tokens up to which a prompt is short there."""
        return (self.status and self.status.short_tokens) or DEFAULT_SHORT_TOKENS

    @property
    def measured_cost(self) -> CostModel | None:
        """What the worker itself has measured."""
        has_cost = self.status is not None and self.status.HasField("cost")
        return self.view().cost if has_cost else None

    @property
    def is_newcomer(self) -> bool:
        """Whether nothing is known of what its steps take."""
        status = self.status
        return status is not None and not status.HasField("cost") and self.presumed_cost is None

    def connecting(self) -> None:
        """A new connection is tried."""
        self.condition = "connecting"
        self.presumed_cost = None
        self.lost.clear()
        self.received_at = time.monotonic()

    def received(
        self, status: worker_pb2.WorkerStatus, models: Collection[str], stall_seconds: float
    ) -> None:
        """A status has come. `models` are the names of which it has to serve one."""
        now = time.monotonic()
        last, self.status = self.status, status
        self.received_at = self._queued_at = now
        self.outstanding.status_came(now)
        self._told_tokens = self._told_requests = 0
        self._view_changed()
        if last is None or status.step != last.step or not status.running_requests:
            self._stepped_at = now
        elif not last.running_requests:
            self._stepped_at = now  # it has only just begun
        self._set_condition(self._condition_now(status, models, now, stall_seconds))

    def _condition_now(
        self,
        status: worker_pb2.WorkerStatus,
        models: Collection[str],
        now: float,
        stall_seconds: float,
    ) -> Condition:
        role = ROLES.get(status.role)
        if role is None or status.model not in models:
            if self.condition != "incompatible":
                logger.warning(
                    "worker %s at %s is not used: it serves %r as role %d, expected %s",
                    *(status.worker_id, self.address, status.model, status.role),
                    " or ".join(map(repr, models)),
                )
            return "incompatible"
        self.role, self.model = role, status.model
        if now - self._stepped_at > stall_seconds:
            return "stalled"
        return "draining" if status.draining else "ready"

    def _set_condition(self, condition: Condition) -> None:
        if condition == self.condition:
            return
        logger.info("%r is %s", self, condition)
        self.condition = condition
        if condition == "stalled":
            self._notify("stalled")

    def tokens_come(self) -> None:
        """This decode worker's Tokens stream to this router is open."""
        self.is_streaming = True
        self._view_changed()

    def refused(self, details: str) -> None:
        """The worker does not take this router for one. Said once for each reason."""
        if details != self._refusal:
            self._refusal = details
            logger.error("%r refuses this router: %s", self, details)

    def lose(self, reason: LossReason) -> None:
        """The connection is gone, or worth nothing."""
        if self.condition == "lost":
            return
        if self.status is not None:
            is_expected = self.condition == "draining" or reason == "closed"
            level = logging.INFO if is_expected else logging.WARNING
            logger.log(level, "%r is lost: %s", self, reason)
        self.has_left = self.condition == "draining" and reason == "stream_broken"
        self.condition = "lost"
        self.is_streaming = False
        self.lost.set()
        self._notify(reason)
        self.status = None
        self._view_changed()

    def _view_changed(self) -> None:
        self._view = None
        self._changed(self)

    def _notify(self, reason: LossReason) -> None:
        for dependent in tuple(self.dependents):
            dependent.worker_lost(self, reason)

    def place(self, placed: Placed) -> None:
        """Counts a request placed here until `unplace`."""
        self.outstanding.add(placed, time.monotonic())
        self._view_changed()

    def unplace(self, placed: Placed) -> None:
        self.outstanding.remove(placed)
        self._view_changed()

    def computed(self, placed: Placed) -> None:
        """This decode worker has computed the request's prompt itself."""
        self.outstanding.computed(placed)
        self._view_changed()

    def crowded(self, tokens_ahead: int) -> None:
        """This prefill worker has refused a prompt, for so many tokens wait there."""
        self._told_tokens = tokens_ahead - self.outstanding.unseen_tokens
        self._queued_at = time.monotonic()
        self._view_changed()

    def has_requests(self, requests: int) -> None:
        """This decode worker has said so, and does not compute a prompt beside them."""
        self._told_requests = requests - self.outstanding.unseen_requests
        self._view_changed()

    def presume(self, cost: CostModel) -> None:
        self.presumed_cost = cost
        self._view_changed()

    def view(self) -> WorkerView:
        """For policies; only of workers that are ready or draining."""
        if self._view is None:
            assert self.status is not None
            self._looked_at = time.monotonic()
            self._view = self._look(self.status, self._looked_at)
        return self._view

    def time_passes(self, now: float) -> None:
        """Its queue is shorter by now than when it was looked at."""
        if self._view is not None and is_dated(self._view, now - self._looked_at):
            self._view_changed()

    def _look(self, status: worker_pb2.WorkerStatus, now: float) -> WorkerView:
        outstanding = self.outstanding
        fresh_requests, fresh_tokens = outstanding.fresh
        queues, has_cost = status.queues, status.HasField("cost")
        cost = cost_from_wire(status.cost) if has_cost else self.presumed_cost or PRIOR
        queued = max(sum(queue.tokens for queue in queues), self._told_tokens)
        short = sum(queue.tokens for queue in queues if queue.length_class == "short")
        age = now - self._queued_at
        queued, short = (still_queued(self.role, each, cost, age) for each in (queued, short))
        return WorkerView(
            worker_id=WorkerId(status.worker_id),
            role=self.role,
            blocks_total=status.blocks_total,
            blocks_free=status.blocks_free,
            block_size=status.block_size,
            context_length=status.context_length,
            running_requests=max(status.running_requests, self._told_requests),
            queued_requests=sum(queue.requests for queue in queues),
            queued_tokens=queued,
            queued_short_tokens=short,
            step=status.step,
            draining=status.draining,
            model_fingerprint=status.model_fingerprint,
            layout_fingerprint=status.layout_fingerprint,
            outstanding_requests=outstanding.unseen_requests,
            outstanding_tokens=outstanding.unseen_tokens,
            outstanding_short_tokens=outstanding.unseen_short_tokens,
            fresh_requests=fresh_requests,
            fresh_tokens=fresh_tokens,
            outstanding_local_tokens=outstanding.local_tokens * max(status.routers, 1),
            short_tokens=self.short_tokens,
            cost=cost,
            is_fitted=has_cost or self.presumed_cost is not None,
            context_tokens=status.context_tokens,
            blocks_predicted=status.blocks_predicted,
            kv_bytes_per_token=status.kv_bytes_per_token,
            kv_bytes_per_second=status.kv_bytes_per_second,
            length_class=_LENGTH_CLASSES.get(status.length_class),
            capabilities=frozenset(status.capabilities),
            transfers=not status.transfer_down,
        )
