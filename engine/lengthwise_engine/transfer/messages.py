"""The messages between a worker and its transfer process, and between the two ends of a link."""

from typing import Final

from msgspec.json import Decoder

from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import Discarded, LinkDown, LinkUp, Piece, Received, Sent
from lengthwise_engine.transfer.frames import Framed


class Setup(Framed, frozen=True, kw_only=True):
    """First frame to the transfer process. File descriptors are inherited under the same number."""

    shards: KVShards
    listen_file_descriptor: int
    backend: str
    stall_seconds: float
    connect_seconds: float
    shared_memory: bool


class Connect(Framed, frozen=True, kw_only=True):
    link: str
    rendezvous: str


class Accept(Framed, frozen=True, kw_only=True):
    link: str


class Send(Framed, frozen=True, kw_only=True):
    link: str
    sequence: int
    piece: Piece


class Receive(Framed, frozen=True, kw_only=True):
    link: str
    sequence: int
    key: str
    piece: Piece | None
    num_bytes: int


class Discard(Framed, frozen=True, kw_only=True):
    key: str


class Close(Framed, frozen=True, kw_only=True):
    link: str


class Ping(Framed, frozen=True, kw_only=True):
    """Answered with `Pong` at once, whatever the links are doing."""


Command = Connect | Accept | Send | Receive | Discard | Close | Ping


class Ready(Framed, frozen=True, kw_only=True):
    """The transfer process has mapped the cache and listens."""


class Progress(Framed, frozen=True, kw_only=True):
    """A long operation moved bytes: keeps the worker from calling the link stalled."""

    link: str


class Pong(Framed, frozen=True, kw_only=True):
    """The process lives."""


Report = LinkUp | LinkDown | Sent | Received | Discarded | Ready | Progress | Pong


class MemoryOffer(Framed, frozen=True, kw_only=True):
    """First message of the two ends of a link: where the sender's caches can be found by a process
    on the same machine. `files` are device and inode of the shares' memory on the CPU."""

    boot_id: str
    process_id: int
    shards: KVShards
    files: tuple[str, ...]


class Offer(Framed, frozen=True, kw_only=True):
    """From sender to receiver: this piece of the sender's caches may be copied."""

    sequence: int
    piece: Piece


class Pulled(Framed, frozen=True, kw_only=True):
    """From receiver to sender: one more message of the piece was copied."""

    sequence: int


SETUP_OR_COMMAND: Final[Decoder[Setup | Command]] = Decoder(Setup | Command)
REPORT: Final[Decoder[Report]] = Decoder(Report)
MEMORY_OFFER: Final[Decoder[MemoryOffer]] = Decoder(MemoryOffer)
OFFER_OR_PULLED: Final[Decoder[Offer | Pulled]] = Decoder(Offer | Pulled)
