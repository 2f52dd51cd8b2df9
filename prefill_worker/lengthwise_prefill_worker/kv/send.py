"""What becomes of each request's KV: pieces out, then one commit, then the blocks are free.

Runs on the event loop. A request's blocks are given back (`release`) only when no send can read
them any more: all its pieces are sent or dropped, or its link is down.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import (
    KVSender,
    LinkDown,
    LinkUp,
    ProcessLost,
    Sent,
    TransferEvent,
    combine_checksums,
)
from lengthwise_policy.cost.transfer_rate import TransferRate
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.kv.link import Announced, DecodeLink
from lengthwise_prefill_worker.kv.links import DecodeLinks, WorkerKey
from lengthwise_prefill_worker.kv.pieces import PieceReady
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_wire.errors import LengthwiseError, TransferFailed
from lengthwise_wire.v1 import decode_pb2, prefill_pb2
from lengthwise_worker.metrics import WorkerMetrics

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import TracedSpan

logger = logging.getLogger(__name__)

CANCEL_SECONDS = 0.5
"""A cancelled request whose sends are still outstanding after this loses its link: a healthy link
takes a piece in milliseconds, and blocks must be free within a second of the cancel."""

LINK_SECRET_BYTES = 16
"""Of a link's name, which the control stream carries and the sender shows at the rendezvous: what
mutual TLS keeps off the stream cannot know it, and it serves once."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Push:
    """One request on its way to its decode worker."""

    request_id: RequestId
    link: DecodeLink
    destination: prefill_pb2.KVDestination
    epoch: int
    on_failed: Callable[[LengthwiseError], None]
    span: "TracedSpan | None"
    checksums: list[int] = field(default_factory=list)
    num_bytes: int = 0
    num_sent: int = 0
    outstanding: int = 0
    started_at: float = 0.0
    last_piece_at: float = 0.0
    last_num_bytes: int = 0  # under way when the last piece was handed over, with that one
    first_token_id: int | None = None
    cancelled: bool = False


class KVSend:
    """All pushes of this worker, and the links they use."""

    def __init__(
        self,
        *,
        identity: decode_pb2.TransferHello,
        sender: KVSender,
        layout: KVLayout,
        tls: TlsConfig | None,
        connect_seconds: float,
        metrics: WorkerMetrics,
        release: Callable[[RequestId], None],
    ) -> None:
        self._identity = identity
        self._sender = sender
        self._layout = layout
        self._tls = tls
        self._metrics = metrics
        self._release = release
        self._pushes: dict[RequestId, _Push] = {}
        self._links = DecodeLinks(self._new_link, connect_seconds)
        self._committing: dict[tuple[str, int, int], _Push] = {}
        self.rate = TransferRate()
        """From the last piece of a request to its commit, of what was not sent by then: what left
        while the prompt was computed does not measure the link."""

    @property
    def num_unfinished(self) -> int:
        """Requests being pushed or waiting for the decode worker's answer."""
        return len(self._pushes) + len(self._committing)

    async def open(
        self,
        request_id: RequestId,
        destination: prefill_pb2.KVDestination,
        epoch: int,
        on_failed: Callable[[LengthwiseError], None],
        span: "TracedSpan | None" = None,
    ) -> None:
        """Makes sure that the link is up before anything is computed. Errors: TransferFailed.

        `span`: of the request, if it is traced."""
        link = await self._links.to((destination.address, destination.worker_id))
        self._pushes[request_id] = _Push(
            request_id=request_id,
            link=link,
            destination=destination,
            epoch=epoch,
            on_failed=on_failed,
            span=span,
        )

    def piece(self, ready: PieceReady) -> None:
        """A piece may leave; pieces of requests that are not pushed any more are ignored."""
        push = self._pushes.get(ready.request_id)
        if push is None or push.cancelled:
            return
        num_bytes = ready.piece.num_bytes(self._layout)
        push.last_piece_at = time.monotonic()
        push.started_at = push.started_at or push.last_piece_at
        push.outstanding += 1
        push.num_bytes += num_bytes
        push.last_num_bytes = push.num_bytes - push.num_sent
        announce = decode_pb2.Announce(
            reservation=push.destination.reservation,
            router_id=push.destination.router_id,
            epoch=push.epoch,
            first_layer=ready.piece.first_layer,
            num_layers=ready.piece.num_layers,
            first_block=ready.first_block,
            num_blocks=len(ready.piece.block_ids),
        )

        def sent(checksum: int) -> None:
            push.checksums.append(checksum)
            push.num_sent += num_bytes
            self._metrics.transfer_bytes.inc(num_bytes)
            self._piece_done(push)

        push.link.push(
            Announced(
                piece=ready.piece,
                announce=announce,
                wanted=lambda: not push.cancelled,
                sent=sent,
                dropped=lambda: self._piece_done(push),
            )
        )

    def computed(self, request_id: RequestId, first_token_id: int) -> None:
        """No more pieces will come; commits once all are sent."""
        push = self._pushes.get(request_id)
        if push is not None and not push.cancelled:
            push.first_token_id = first_token_id
            self._settle(push)

    def cancel(self, request_id: RequestId) -> None:
        """Stops pushing, and releases the request as soon as nothing reads its blocks."""
        push = self._pushes.get(request_id)
        if push is None:
            self._release(request_id)
        elif not push.cancelled:
            push.cancelled = True
            push.link.issue()
            self._settle(push)
            if request_id in self._pushes:
                loop = asyncio.get_running_loop()
                loop.call_later(CANCEL_SECONDS, self._cancel_late, push)

    def on_event(self, event: TransferEvent) -> None:
        """From the transfer process."""
        if isinstance(event, ProcessLost):
            self._links.close_all(event.reason)
        elif isinstance(event, LinkUp | LinkDown | Sent):
            found = self._links.named(event.link)
            if found is None:
                return
            if isinstance(event, LinkUp):
                found.link_up(event.path)
            elif isinstance(event, Sent):
                found.sent(event.checksum)
            else:
                found.close(event.reason)

    async def close(self) -> None:
        """Ends every link."""
        await self._links.close()

    def _new_link(self, key: WorkerKey) -> DecodeLink:
        address, worker_id = key
        return DecodeLink(
            f"{self._identity.worker_id}/{worker_id}/{secrets.token_hex(LINK_SECRET_BYTES)}",
            address,
            identity=self._identity,
            sender=self._sender,
            layout=self._layout,
            tls=self._tls,
            on_committed=self._committed,
            on_down=lambda link, reason: self._link_down(key, link, reason),
        )

    def _link_down(self, key: WorkerKey, link: DecodeLink, reason: str) -> None:
        self._links.down(key, link)
        for push in [push for push in self._pushes.values() if push.link is link]:
            push.outstanding = 0
            if push.cancelled:
                self._finish(push)
                continue
            push.cancelled = True
            self._metrics.transfer_failed("link_down")
            push.on_failed(TransferFailed(f"the KV link to {key[0]} failed: {reason}"))
            self._finish(push)
        for commit in [c for c, push in self._committing.items() if push.link is link]:
            del self._committing[commit]
            self._metrics.transfer_failed("link_down")

    def _piece_done(self, push: _Push) -> None:
        push.outstanding -= 1
        self._settle(push)

    def _settle(self, push: _Push) -> None:
        """Commits or releases a push that has nothing outstanding."""
        if push.outstanding > 0 or push.request_id not in self._pushes:
            return
        if push.cancelled:
            self._finish(push)
        elif push.first_token_id is not None:
            key = (push.destination.router_id, push.destination.reservation, push.epoch)
            self._committing[key] = push
            push.link.commit(
                decode_pb2.Commit(
                    reservation=push.destination.reservation,
                    router_id=push.destination.router_id,
                    epoch=push.epoch,
                    first_token_id=push.first_token_id,
                    checksum=combine_checksums(push.checksums),
                    num_pieces=len(push.checksums),
                    num_bytes=push.num_bytes,
                )
            )
            self._finish(push)

    def _finish(self, push: _Push) -> None:
        del self._pushes[push.request_id]
        self._release(push.request_id)

    def _cancel_late(self, push: _Push) -> None:
        if self._pushes.get(push.request_id) is push:
            push.link.close(f"a cancelled request's sends are stuck for {CANCEL_SECONDS} s")

    def _committed(self, committed: decode_pb2.Committed) -> None:
        key = (committed.router_id, committed.reservation, committed.epoch)
        push = self._committing.pop(key, None)
        if push is not None and push.span is not None:
            now = time.monotonic()
            began_at = push.started_at or now
            push.span.child("transfer", began_at, now, {"bytes": push.num_bytes}, committed.error)
        if committed.error:
            self._metrics.transfer_failed("refused")
            logger.warning("a commit was refused: %s", committed.error)
        elif push is not None and push.checksums:
            now = time.monotonic()
            self._metrics.transfer_seconds.observe(now - push.started_at)
            self.rate.moved(push.last_num_bytes, now - push.last_piece_at)
