"""KV that arrives: what was announced, what has landed, and when a request is whole.

Runs on the event loop. Pieces of attempts that have ended are taken off the wire and dropped.
"""

import time

from lengthwise_decode_worker.kv.arrival import Arrival
from lengthwise_decode_worker.kv.link import PrefillLink
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import (
    Discarded,
    KVReceiver,
    LinkDown,
    Piece,
    ProcessLost,
    Received,
    TransferEvent,
)
from lengthwise_wire.errors import InvalidRequest, Overloaded
from lengthwise_wire.v1 import decode_pb2
from lengthwise_worker.metrics import WorkerMetrics

MAX_LINKS = 1024


class KVReceive:
    """All links and arrivals of this worker."""

    def __init__(
        self, *, receiver: KVReceiver, layout: KVLayout, num_blocks: int, metrics: WorkerMetrics
    ) -> None:
        self._receiver = receiver
        self._layout = layout
        self._num_blocks = num_blocks
        self._metrics = metrics
        self._links: dict[str, PrefillLink] = {}
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

    def open_link(self, name: str) -> PrefillLink:
        """Errors: InvalidRequest for a name in use, Overloaded when there are too many links."""
        if not name or len(name) > 256 or name in self._links:
            raise InvalidRequest(f"link: got {name[:256]!r}, expected a new name of 1 to 256")
        if len(self._links) >= MAX_LINKS:
            raise Overloaded(f"{MAX_LINKS} links are open already")
        link = self._links[name] = PrefillLink(name)
        self._receiver.accept(name)
        link.accept(self._receiver.rendezvous)
        return link

    def close_link(self, link: PrefillLink, reason: str) -> None:
        """Fails what still comes over this link. Safe to call again."""
        if self._links.pop(link.name, None) is None:
            return
        self._receiver.close(link.name)
        self._link_lost(link, reason)

    def close(self) -> None:
        """Ends every link."""
        for link in list(self._links.values()):
            self.close_link(link, "this worker is going away")

    async def announce(self, link: PrefillLink, announce: decode_pb2.Announce) -> None:
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
        arrival.link = link  # fails with it
        end = announce.first_block + announce.num_blocks
        if announce.first_block < arrival.first_block or end > len(arrival.block_ids):
            raise InvalidRequest(
                f"blocks: got [{announce.first_block}, {end}), expected some of"
                f" [{arrival.first_block}, {len(arrival.block_ids)}), which the prompt misses here"
            )
        arrival.started_at = arrival.started_at or time.monotonic()
        arrival.announced += 1
        arrival.announced_bytes += announce.num_bytes
        piece = Piece(
            first_layer=announce.first_layer,
            num_layers=announce.num_layers,
            block_ids=arrival.block_ids[announce.first_block : end],
        )
        self._receiver.receive(link.name, announce.sequence, arrival.key, piece, announce.num_bytes)

    def commit(self, link: PrefillLink, commit: decode_pb2.Commit) -> None:
        """The request has been announced whole."""
        arrival = self._arrivals.get((commit.router_id, commit.reservation))
        if arrival is None or arrival.epoch != commit.epoch:
            link.answer(commit, "the reservation is gone, or waits for a newer attempt")
            return
        arrival.link = link
        arrival.commit = commit
        self._settle(arrival)

    def on_event(self, event: TransferEvent) -> None:
        """From the transfer process."""
        if isinstance(event, Received):
            self._received(event)
        elif isinstance(event, Discarded):
            arrival = self._draining.pop(event.key, None)
            if arrival is not None:
                arrival.listener.on_drained(arrival)
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
                arrival.listener.on_drained(arrival)

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
        error = arrival.mismatch(commit, self._layout)
        arrival.link.answer(commit, error)
        if error:
            self._metrics.transfer_failed("mismatch")
            arrival.listener.on_failed(arrival, error)
            return
        self._metrics.transfer_bytes.inc(arrival.announced_bytes)
        self._metrics.transfer_seconds.observe(time.monotonic() - arrival.started_at)
        arrival.listener.on_committed(arrival, commit.first_token_id)

    def _link_lost(self, link: PrefillLink, reason: str) -> None:
        link.lost(reason)
        for arrival in [a for a in self._by_key.values() if a.link is link]:
            self._forget(arrival)
            self._metrics.transfer_failed("link_down")
            arrival.listener.on_failed(arrival, f"the KV link failed: {reason}")

    def _forget(self, arrival: Arrival) -> None:
        key = (arrival.router_id, arrival.reservation)
        if self._arrivals.get(key) is arrival:
            del self._arrivals[key]
        self._by_key.pop(arrival.key, None)
