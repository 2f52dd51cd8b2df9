"""KV that arrives: what was announced, what has landed, and when a request is whole.

Runs on the event loop. One `Arrival` is one attempt (epoch) to fill one reservation's blocks; its
pieces all come over one link. Pieces nobody waits for are taken off the wire and dropped.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import (
    Discarded,
    KVReceiver,
    LinkDown,
    Piece,
    ProcessLost,
    Received,
    TransferEvent,
    combine_checksums,
)
from lengthwise_policy.types import RequestId
from lengthwise_wire.errors import InvalidRequest, Overloaded, TransferFailed
from lengthwise_wire.v1 import decode_pb2
from lengthwise_worker.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

MAX_LINKS = 1024
MAX_OUTSTANDING = 64
"""Receives issued per link; further announcements wait unread in the control stream."""


@dataclass(slots=True, kw_only=True, eq=False)
class Arrival:
    """What has come of one attempt at one request's KV."""

    request_id: RequestId
    router_id: str
    reservation: int
    epoch: int
    block_ids: tuple[int, ...]
    """The prompt's blocks."""
    first_block: int
    """The blocks before it hold their KV already: others use them, nothing may write there."""
    link: "Link | None" = None
    announced: int = 0
    announced_bytes: int = 0
    checksums: list[int] = field(default_factory=list)
    commit: decode_pb2.Commit | None = None
    started_at: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.request_id}/{self.epoch}"

    @property
    def is_receiving(self) -> bool:
        """Whether a transfer may still write to the blocks."""
        return len(self.checksums) < self.announced


class Link:
    """One prefill worker's control stream and data link."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.replies: deque[decode_pb2.TransferReply] = deque()
        self.changed = asyncio.Event()
        self.room = asyncio.Semaphore(MAX_OUTSTANDING)
        self.down_reason: str | None = None

    def reply(self, reply: decode_pb2.TransferReply) -> None:
        self.replies.append(reply)
        self.changed.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalEvents:
    """Whom an arrival's fate concerns."""

    committed: Callable[[Arrival, int], None]
    """Every block is in place; with the first token's id."""
    failed: Callable[[Arrival, str], None]
    """It will not be whole; nothing writes to its blocks any more."""
    drained: Callable[[Arrival], None]
    """After `stop` returned True: nothing writes to its blocks any more."""


class KVReceive:
    """All links and arrivals of this worker."""

    def __init__(
        self,
        *,
        receiver: KVReceiver,
        layout: KVLayout,
        num_blocks: int,
        metrics: WorkerMetrics,
        events: ArrivalEvents,
    ) -> None:
        self._receiver = receiver
        self._layout = layout
        self._num_blocks = num_blocks
        self._metrics = metrics
        self._events = events
        self._links: dict[str, Link] = {}
        self._arrivals: dict[tuple[str, int], Arrival] = {}
        self._by_key: dict[str, Arrival] = {}
        self._draining: dict[str, Arrival] = {}

    def expect(self, arrival: Arrival) -> None:
        """From now on pieces announced for this reservation and epoch are written to its blocks."""
        self._arrivals[(arrival.router_id, arrival.reservation)] = arrival
        self._by_key[arrival.key] = arrival

    def stop(self, arrival: Arrival) -> bool:
        """Refuses further pieces. True: blocks may still be written until `drained` is called."""
        self._forget(arrival)
        if not arrival.is_receiving:
            return False
        self._draining[arrival.key] = arrival
        self._receiver.discard(arrival.key)
        return True

    def open_link(self, name: str) -> Link:
        """Errors: InvalidRequest for a name in use, Overloaded when there are too many links."""
        if not name or len(name) > 256 or name in self._links:
            raise InvalidRequest(f"link: got {name[:256]!r}, expected a new name of 1 to 256")
        if len(self._links) >= MAX_LINKS:
            raise Overloaded(f"{MAX_LINKS} links are open already")
        link = self._links[name] = Link(name)
        self._receiver.accept(name)
        link.reply(
            decode_pb2.TransferReply(
                accepted=decode_pb2.TransferAccepted(rendezvous=self._receiver.rendezvous)
            )
        )
        return link

    def close_link(self, link: Link, reason: str) -> None:
        """Fails what still comes over this link. Safe to call again."""
        if self._links.pop(link.name, None) is None:
            return
        self._receiver.close(link.name)
        self._link_lost(link, reason)

    def close(self) -> None:
        """Ends every link."""
        for link in list(self._links.values()):
            self.close_link(link, "this worker is going away")

    async def announce(self, link: Link, announce: decode_pb2.Announce) -> None:
        """Takes the next piece of this link. Errors: InvalidRequest when it cannot be one."""
        await link.room.acquire()
        if link.down_reason is not None:
            return
        self._check(announce)
        arrival = self._arrivals.get((announce.router_id, announce.reservation))
        if arrival is None or arrival.epoch != announce.epoch:
            self._receiver.receive(link.name, announce.sequence, "", None, announce.num_bytes)
            return
        if arrival.link not in (None, link):
            raise InvalidRequest(f"reservation {announce.reservation} is fed by another link")
        end = announce.first_block + announce.num_blocks
        if announce.first_block < arrival.first_block or end > len(arrival.block_ids):
            raise InvalidRequest(
                f"blocks: got [{announce.first_block}, {end}), expected some of"
                f" [{arrival.first_block}, {len(arrival.block_ids)}), which the prompt misses here"
            )
        arrival.link = link
        arrival.started_at = arrival.started_at or time.monotonic()
        arrival.announced += 1
        arrival.announced_bytes += announce.num_bytes
        piece = Piece(
            first_layer=announce.first_layer,
            num_layers=announce.num_layers,
            block_ids=arrival.block_ids[announce.first_block : end],
        )
        self._receiver.receive(link.name, announce.sequence, arrival.key, piece, announce.num_bytes)

    def commit(self, link: Link, commit: decode_pb2.Commit) -> None:
        """The request has been announced whole."""
        arrival = self._arrivals.get((commit.router_id, commit.reservation))
        if arrival is None or arrival.epoch != commit.epoch:
            _answer(link, commit, "the reservation is gone, or waits for a newer attempt")
            return
        arrival.link = link
        arrival.commit = commit
        self._settle(arrival)

    def on_event(self, event: TransferEvent) -> None:
        """What the transfer process says."""
        if isinstance(event, Received):
            self._received(event)
        elif isinstance(event, Discarded):
            arrival = self._draining.pop(event.key, None)
            if arrival is not None:
                self._events.drained(arrival)
        elif isinstance(event, LinkDown):
            link = self._links.pop(event.link, None)
            if link is not None:
                self._link_lost(link, event.reason)
        elif isinstance(event, ProcessLost):
            for link in list(self._links.values()):
                del self._links[link.name]
                self._link_lost(link, event.reason)
            draining, self._draining = self._draining, {}
            for arrival in draining.values():
                self._events.drained(arrival)

    def _check(self, announce: decode_pb2.Announce) -> None:
        """A worker of the same layout announces only what this cache could hold."""
        layers, blocks = announce.num_layers, announce.num_blocks
        expected = layers * blocks * self._layout.block_bytes
        in_model = announce.first_layer + layers <= self._layout.num_layers
        if not (in_model and 1 <= blocks <= self._num_blocks and layers >= 1):
            raise InvalidRequest(
                f"piece: got {blocks} blocks of layers [{announce.first_layer},"
                f" {announce.first_layer + layers}), the cache has {self._num_blocks} blocks of"
                f" {self._layout.num_layers} layers"
            )
        if announce.num_bytes != expected:
            raise InvalidRequest(f"num_bytes: got {announce.num_bytes}, expected {expected}")

    def _received(self, event: Received) -> None:
        link = self._links.get(event.link)
        if link is not None:
            link.room.release()
        arrival = self._by_key.get(event.key) or self._draining.get(event.key)
        if arrival is not None:
            arrival.checksums.append(event.checksum)
            self._settle(arrival)

    def _settle(self, arrival: Arrival) -> None:
        """Verifies an arrival whose last piece and commit are both here."""
        commit = arrival.commit
        if commit is None or arrival.link is None or arrival.key not in self._by_key:
            return
        if arrival.is_receiving:
            return
        self._forget(arrival)
        error = self._mismatch(arrival, commit)
        _answer(arrival.link, commit, error)
        if error:
            self._metrics.transfer_failed("mismatch")
            self._events.failed(arrival, error)
            return
        self._metrics.transfer_bytes.inc(arrival.announced_bytes)
        self._metrics.transfer_seconds.observe(time.monotonic() - arrival.started_at)
        self._events.committed(arrival, commit.first_token_id)

    def _mismatch(self, arrival: Arrival, commit: decode_pb2.Commit) -> str:
        """Says why what landed is not what was sent; empty when it is."""
        missing = len(arrival.block_ids) - arrival.first_block
        expected = self._layout.num_layers * missing * self._layout.block_bytes
        if not commit.num_bytes == arrival.announced_bytes == expected:
            return (
                f"KV bytes: sent {commit.num_bytes}, announced {arrival.announced_bytes},"
                f" expected {expected}"
            )
        checksum = combine_checksums(arrival.checksums)
        if checksum != commit.checksum:
            return f"KV checksum: sent {commit.checksum:016x}, received {checksum:016x}"
        return ""

    def _link_lost(self, link: Link, reason: str) -> None:
        link.down_reason = reason
        link.changed.set()
        link.room.release()
        for arrival in [a for a in self._by_key.values() if a.link is link]:
            self._forget(arrival)
            self._metrics.transfer_failed("link_down")
            self._events.failed(arrival, f"the KV link failed: {reason}")

    def _forget(self, arrival: Arrival) -> None:
        key = (arrival.router_id, arrival.reservation)
        if self._arrivals.get(key) is arrival:
            del self._arrivals[key]
        self._by_key.pop(arrival.key, None)


def transfer_failed(link: Link) -> TransferFailed:
    return TransferFailed(f"the KV link {link.name} is down: {link.down_reason}")


def _answer(link: Link, commit: decode_pb2.Commit, error: str) -> None:
    link.reply(
        decode_pb2.TransferReply(
            committed=decode_pb2.Committed(
                reservation=commit.reservation,
                router_id=commit.router_id,
                epoch=commit.epoch,
                error=error,
            )
        )
    )
