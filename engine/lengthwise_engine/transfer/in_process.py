"""KV transfer inside one process: for tests of whatever stands on top of it.

What `base.py` promises holds here too (one suite tests both), and every fault is a method.
`LocalWire` is the network; its thread does everything, in the order it was asked for.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch
import xxhash
from msgspec.structs import replace

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    LinkUp,
    OnEvent,
    Piece,
    ProcessLost,
    ProcessReady,
    Received,
    Sent,
    TransferEvent,
    check_piece,
    check_receive,
)
from lengthwise_engine.transfer.messages import Receive, Send
from lengthwise_engine.transfer.supervisor.outstanding_ops import Direction, OutstandingOps

_TICK_SECONDS: Final = 0.01


class LocalTransfer:
    """One worker's end: `KVSender` and `KVReceiver`."""

    def __init__(self, wire: "LocalWire", cache: KVCache, on_event: OnEvent, number: int) -> None:
        self.cache = cache
        self.rendezvous = f"local:{number}"
        self._wire = wire
        self._on_event = on_event
        self._lock = threading.Lock()
        self._outstanding = OutstandingOps(
            stall_seconds=wire.stall_seconds, connect_seconds=wire.connect_seconds
        )

    def connect(self, link: str, rendezvous: str) -> None:
        self._open(link, "send")
        self._wire.post(partial(self._wire.join, link, self, "send", rendezvous))

    def accept(self, link: str) -> None:
        self._open(link, "receive")
        self._wire.post(partial(self._wire.join, link, self, "receive", self.rendezvous))

    def send(self, link: str, sequence: int, piece: Piece) -> None:
        check_piece(piece, self.cache.layout, self.cache.num_blocks)
        if self._issue(link, "send", sequence):
            command = Send(link=link, sequence=sequence, piece=piece)
            self._wire.post(partial(self._wire.enqueue, self, command))

    def receive(
        self, link: str, sequence: int, key: str, piece: Piece | None, num_bytes: int
    ) -> None:
        check_receive(piece, num_bytes, self.cache.layout, self.cache.num_blocks)
        if self._issue(link, "receive", sequence):
            command = Receive(
                link=link, sequence=sequence, key=key, piece=piece, num_bytes=num_bytes
            )
            self._wire.post(partial(self._wire.enqueue, self, command))

    def discard(self, key: str) -> None:
        with self._lock:
            self._outstanding.discard(key, time.monotonic())
        self._wire.post(partial(self._wire.discard, self, key))

    def close(self, link: str) -> None:
        with self._lock:
            is_open = self._outstanding.close(link, time.monotonic())
        if is_open:
            self._wire.post(partial(self._wire.close, self, link))

    def lose(self, reason: str) -> None:
        """Fault: this end's process dies (and is back at once)."""
        self._wire.post(partial(self._wire.lose, self, reason))

    def deliver(self, event: TransferEvent) -> None:
        """For the wire: deliver to the worker."""
        with self._lock:
            if isinstance(event, ProcessLost):
                self._outstanding.clear()
            elif not isinstance(event, ProcessReady):
                self._outstanding.settle(event, time.monotonic())
        self._on_event(event)

    def _open(self, link: str, direction: Direction) -> None:
        with self._lock:
            self._outstanding.open(link, direction, time.monotonic())

    def _issue(self, link: str, direction: Direction, sequence: int) -> bool:
        with self._lock:
            return self._outstanding.issue(link, direction, sequence, time.monotonic())


@dataclass(slots=True)
class _LocalLink:
    since: float
    sender: LocalTransfer | None = None
    receiver: LocalTransfer | None = None
    sends: deque[Send] = field(default_factory=deque)
    receives: deque[Receive] = field(default_factory=deque)

    @property
    def is_up(self) -> bool:
        return self.sender is not None and self.receiver is not None

    @property
    def ends(self) -> list[LocalTransfer]:
        return [end for end in (self.sender, self.receiver) if end is not None]


class LocalWire:
    """The network between the ends of one test. `stop` it."""

    def __init__(self, *, stall_seconds: float = 1.0, connect_seconds: float = 1.0) -> None:
        self.stall_seconds = stall_seconds
        self.connect_seconds = connect_seconds
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ends: dict[str, LocalTransfer] = {}
        self._links: dict[str, _LocalLink] = {}
        self._corrupted: set[tuple[str, int]] = set()
        self._stalled: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="local wire", daemon=True)
        self._thread.start()

    def end(self, cache: KVCache, on_event: OnEvent) -> LocalTransfer:
        """A new worker on this wire. `on_event` is called from the wire's thread."""
        end = LocalTransfer(self, cache, on_event, len(self._ends))
        self._ends[end.rendezvous] = end
        return end

    def stop(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def corrupt(self, link: str, sequence: int) -> None:
        """Fault: one byte of this operation changes on the way."""
        self.post(partial(self._corrupted.add, (link, sequence)))

    def stall(self, link: str) -> None:
        """Fault: from now on no byte of this link moves."""
        self.post(partial(self._stalled.add, link))

    def break_link(self, link: str, reason: str = "broken by the test") -> None:
        """Fault: both ends learn that the link is down."""
        self.post(partial(self._take_down, link, reason))

    def post(self, task: Callable[[], None]) -> None:
        """For the ends: have the wire's thread do it."""
        self._tasks.put(task)

    def join(self, name: str, end: LocalTransfer, direction: Direction, rendezvous: str) -> None:
        link = self._links.setdefault(name, _LocalLink(since=time.monotonic()))
        if rendezvous not in self._ends:
            self._take_down(name, f"no receiver at {rendezvous}", also=end)
            return
        if direction == "send":
            link.sender = end
        else:
            link.receiver = end
        if link.is_up:
            link.since = time.monotonic()
            for each in link.ends:
                each.deliver(LinkUp(link=name))

    def enqueue(self, end: LocalTransfer, command: Send | Receive) -> None:
        link = self._links.get(command.link)
        if link is None or end not in link.ends:
            return
        if not link.sends and not link.receives:
            link.since = time.monotonic()
        if isinstance(command, Send):
            link.sends.append(command)
        else:
            link.receives.append(command)

    def discard(self, end: LocalTransfer, key: str) -> None:
        for link in self._links.values():
            if link.receiver is end:
                link.receives = deque(
                    replace(each, piece=None) if each.key == key else each for each in link.receives
                )
        end.deliver(Discarded(key=key))

    def close(self, end: LocalTransfer, name: str) -> None:
        link = self._links.get(name)
        if link is not None and end in link.ends:
            self._take_down(name, "closed")

    def lose(self, end: LocalTransfer, reason: str) -> None:
        for name, link in list(self._links.items()):
            if end in link.ends:
                self._take_down(name, "the peer closed the link or died", but=end)
        end.deliver(ProcessLost(reason=reason))

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                task = self._expire
            if task is None:
                return
            task()
            for name in list(self._links):
                self._pump(name)

    def _pump(self, name: str) -> None:
        link = self._links[name]
        while link.is_up and link.sends and link.receives and name not in self._stalled:
            send, receive = link.sends.popleft(), link.receives.popleft()
            link.since = time.monotonic()
            self._move(link, send, receive)
            if name not in self._links:
                return

    def _move(self, link: _LocalLink, send: Send, receive: Receive) -> None:
        assert link.sender is not None
        assert link.receiver is not None
        data = _named(link.sender.cache, send.piece)
        sent = _checksum(data)
        if (send.link, send.sequence) in self._corrupted:
            data.view(torch.uint8).flatten()[0] ^= 1
        if data.nbytes != receive.num_bytes:
            self._take_down(send.link, f"{data.nbytes} bytes sent, {receive.num_bytes} expected")
            return
        if receive.piece is not None:
            piece = receive.piece
            layers = slice(piece.first_layer, piece.first_layer + piece.num_layers)
            shape = (piece.num_layers, len(piece.block_ids), *data.shape[2:])
            link.receiver.cache.tensor[layers, list(piece.block_ids)] = data.reshape(shape)
        link.sender.deliver(Sent(link=send.link, sequence=send.sequence, checksum=sent))
        link.receiver.deliver(
            Received(
                link=send.link, sequence=send.sequence, key=receive.key, checksum=_checksum(data)
            )
        )

    def _expire(self) -> None:
        now = time.monotonic()
        for name, link in list(self._links.items()):
            if not link.is_up and now - link.since > self.connect_seconds:
                self._take_down(name, f"not up within {self.connect_seconds:g} s")
            elif (link.sends or link.receives) and now - link.since > self.stall_seconds:
                self._take_down(name, f"nothing moved for {self.stall_seconds:g} s")

    def _take_down(
        self,
        name: str,
        reason: str,
        *,
        also: LocalTransfer | None = None,
        but: LocalTransfer | None = None,
    ) -> None:
        link = self._links.pop(name, None)
        ends = [] if link is None else link.ends
        for end in [*ends, *([] if also is None else [also])]:
            if end is not but:
                end.deliver(LinkDown(link=name, reason=reason))


def _named(cache: KVCache, piece: Piece) -> torch.Tensor:
    """A copy of the piece, in wire order."""
    layers = slice(piece.first_layer, piece.first_layer + piece.num_layers)
    return cache.tensor[layers, list(piece.block_ids)]


def _checksum(data: torch.Tensor) -> int:
    return xxhash.xxh3_64_intdigest(data.view(torch.uint8).numpy().data.cast("B"))
