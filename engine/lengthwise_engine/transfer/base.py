"""What moving KV blocks between two workers means: pieces, events, and the two seams.

Rules kept by every implementation (`tests/transfer` runs one suite over all of them):

* A call never waits for the network and never raises for what a peer did. Its outcome is an event.
* `connect` and `accept` end in one `LinkUp` or one `LinkDown`; a link that was up ends in one
  `LinkDown`, also when this side closed it. A link is never repaired: the next attempt has a new
  name.
* On a link, sequence numbers are dense from 0 and both ends move bytes in exactly that order.
* `send` ends in one `Sent`, `receive` in one `Received`, `discard` in one `Discarded`, unless the
  link goes down first (for `discard`, the process).
* Memory may be given away after: `Sent` or `LinkDown` at the sender; `Received`, `Discarded` or
  `LinkDown` at the receiver. `ProcessLost` stands for all of these at once.
* A call about a link that is not open does nothing: its `LinkDown` is on the way or was delivered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash

from lengthwise_engine.errors import EngineError
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.frames import Framed


class TransferBusy(EngineError):
    """Too many operations are outstanding; wait for events before asking for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some blocks of some layers of the caller's own cache.

    On the wire the bytes are ordered by layer, then as in `block_ids`.
    """

    first_layer: int
    num_layers: int
    block_ids: tuple[int, ...]

    def num_bytes(self, layout: KVLayout) -> int:
        return self.num_layers * len(self.block_ids) * layout.block_bytes


class LinkUp(Framed, frozen=True, kw_only=True):
    """`path` is how the bytes go, in words, and why not by a shorter way."""

    link: str
    path: str = ""


class LinkDown(Framed, frozen=True, kw_only=True):
    """The link failed, was never built, or was closed; nothing touches memory for it any more."""

    link: str
    reason: str


class Sent(Framed, frozen=True, kw_only=True):
    """The source blocks may be reused; the bytes may still be on their way."""

    link: str
    sequence: int
    checksum: int


class Received(Framed, frozen=True, kw_only=True):
    """The bytes left the wire. They lie in the cache, unless they were dropped."""

    link: str
    sequence: int
    key: str
    checksum: int


class Discarded(Framed, frozen=True, kw_only=True):
    """Nothing will write to the blocks of this key's earlier receives any more."""

    key: str


class ProcessLost(Framed, frozen=True, kw_only=True):
    """The transfer process died or was killed as stalled, and is being restarted.

    Every link is down and every discard is done, without an event of its own.
    """

    reason: str


class ProcessReady(Framed, frozen=True, kw_only=True):
    """A transfer process serves: the first one, or one that replaces a lost one."""


TransferEvent = LinkUp | LinkDown | Sent | Received | Discarded | ProcessLost | ProcessReady
OnEvent = Callable[[TransferEvent], None]


class KVSender(Protocol):
    """The prefill worker's end."""

    def connect(self, link: str, rendezvous: str) -> None:
        """Build a link to the receiver that accepts the same name at `rendezvous` (host:port)."""

    def send(self, link: str, sequence: int, piece: Piece) -> None:
        """Push the piece; its blocks must stay as they are until `Sent` or `LinkDown`.

        Raises TransferBusy when too many operations of the link are outstanding.
        """

    def close(self, link: str) -> None:
        """Tear the link down at once, whatever it is doing; ends in `LinkDown`."""


class KVReceiver(Protocol):
    """The decode worker's end."""

    @property
    def rendezvous(self) -> str:
        """host:port where senders find this receiver; the same for the receiver's whole life."""

    def accept(self, link: str) -> None:
        """Wait, for a bounded time, for the sender that connects under this name."""

    def receive(
        self, link: str, sequence: int, key: str, piece: Piece | None, num_bytes: int
    ) -> None:
        """Take the sender's piece of the same sequence number off the wire, into `piece`.

        With `piece` None the bytes are dropped. `key` names what `discard` takes back (a request's
        attempt). Call it once the sender has the bytes ready: a link that waits `stall_seconds`
        without a byte goes down. Raises TransferBusy when too many operations of the link are
        outstanding, ValueError when `num_bytes` is not the size of `piece`.
        """

    def discard(self, key: str) -> None:
        """Drop what the key's receives issued so far have not written yet; ends in `Discarded`.

        The bytes are still taken off the wire, so each of those receives still ends in `Received`.
        """

    def close(self, link: str) -> None:
        """Tear the link down at once, whatever it is doing; ends in `LinkDown`."""


def combine_checksums(checksums: Sequence[int]) -> int:
    """One xxh3-64 over the checksums of a request's pieces; their order matters."""
    return xxhash.xxh3_64_intdigest(b"".join(value.to_bytes(8, "little") for value in checksums))


def check_piece(piece: Piece, layout: KVLayout, num_blocks: int) -> None:
    """Raises ValueError unless the piece names layers and blocks that the cache has."""
    num_layers = layout.num_layers
    end_layer = piece.first_layer + piece.num_layers
    if piece.first_layer < 0 or piece.num_layers < 1 or end_layer > num_layers:
        raise ValueError(f"a piece must lie within {num_layers} layers, got {piece}")
    if not piece.block_ids or min(piece.block_ids) < 0 or max(piece.block_ids) >= num_blocks:
        raise ValueError(f"a piece must name blocks below {num_blocks}, got {piece}")


def check_receive(piece: Piece | None, num_bytes: int, layout: KVLayout, num_blocks: int) -> None:
    """Raises ValueError unless `num_bytes` are whole blocks, and as many as the piece names."""
    if piece is not None:
        check_piece(piece, layout, num_blocks)
        expected = piece.num_bytes(layout)
        if num_bytes != expected:
            raise ValueError(f"{piece} takes {expected} bytes, but {num_bytes} are announced")
    block_bytes = layout.block_bytes
    if num_bytes < 1 or num_bytes % block_bytes:
        raise ValueError(f"num_bytes must be a multiple of {block_bytes}, got {num_bytes}")
