"""What crosses a socket: JSON values behind a four-byte length, and the messages made of them.

Two sockets speak it: the one between a worker and its transfer process, and the one between the two
ends of a link. The rule: every message is a frozen dataclass, so both ends of a
socket name the same fields; nothing is ever unpickled.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from lengthwise_engine.errors import EngineError
from lengthwise_engine.kv.cache import SharedKV
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    LinkUp,
    Piece,
    Received,
    Sent,
    TransferEvent,
)

_LENGTH: Final = struct.Struct("!I")
# A piece of a million blocks is 8 MB of JSON; a longer frame is a broken or foreign stream.
_MAX_FRAME_BYTES: Final = 64 * 2**20


class FrameError(Exception):
    """The bytes on a socket are not frames of this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """First frame to the transfer process. File descriptors are inherited under the same number."""

    shards: KVShards
    listen_file_descriptor: int
    backend: str
    stall_seconds: float
    connect_seconds: float
    shared_memory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    link: str
    rendezvous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    link: str
    sequence: int
    piece: Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive:
    link: str
    sequence: int
    key: str
    piece: Piece | None
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    link: str


Command = Connect | Accept | Send | Receive | Discard | Close


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The transfer process has mapped the cache and listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A long operation moved bytes: keeps the parent from calling the link stalled."""

    link: str


Report = TransferEvent | Ready | Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOffer:
    """First message of the two ends of a link: where the sender's caches can be found by a process
    on the same machine. `files` are device and inode of the shares' memory on the CPU."""

    boot_id: str
    process_id: int
    shards: KVShards
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """From sender to receiver: this piece of the sender's caches may be taken."""

    sequence: int
    piece: Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """From receiver to sender: one more message of the piece was copied."""

    sequence: int


_MESSAGES: Final[dict[str, type[Any]]] = {
    message.__name__: message
    for message in (
        *(Setup, Connect, Accept, Send, Receive, Discard, Close),
        *(Ready, Progress, LinkUp, LinkDown, Sent, Received, Discarded),
        *(MemoryOffer, Offer, Pulled),
    )
}
_NESTED: Final[dict[str, type[Any]]] = {
    "piece": Piece,
    "shards": KVShards,
    "layout": KVLayout,
    "shares": SharedKV,
}


def _fields(value: Any) -> dict[str, object]:
    # dataclasses.asdict would copy the block ids one by one.
    return {field.name: getattr(value, field.name) for field in fields(value)}


_ENCODER: Final = json.JSONEncoder(default=_fields, separators=(",", ":"))


def frame(value: object) -> bytes:
    """`value` is a message, or anything JSON has."""
    if is_dataclass(value):
        value = {"message": type(value).__name__, **_fields(value)}
    body = _ENCODER.encode(value).encode()
    return _LENGTH.pack(len(body)) + body


def message(value: Any) -> Any:
    """The message that `frame` was given, from the JSON value that `FrameReader` returned."""
    try:
        arguments = dict(value)
        kind = _MESSAGES[arguments.pop("message")]
        return kind(**{name: _thawed(name, value) for name, value in arguments.items()})
    except (AttributeError, EngineError, KeyError, TypeError, ValueError) as error:
        raise FrameError(f"expected a transfer message, got {str(value)[:200]!r}") from error


def _thawed(name: str, value: Any) -> Any:
    """JSON has no tuples, and of our values only their fields."""
    nested = _NESTED.get(name)
    if isinstance(value, list):
        return tuple(value) if nested is None else tuple(_thawed(name, each) for each in value)
    if nested is None or value is None:
        return value
    return nested(**{key: _thawed(key, each) for key, each in value.items()})


class FrameReader:
    """Cuts a byte stream into JSON values."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The values that `data` completes. Raises FrameError when the stream is not frames."""
        self._bytes += data
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > _MAX_FRAME_BYTES:
                raise FrameError(f"frame of {length} bytes, expected at most {_MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                return
            body = bytes(self._bytes[_LENGTH.size : end])
            del self._bytes[:end]
            try:
                yield json.loads(body)
            except ValueError as error:
                raise FrameError(f"frame is not JSON: {body[:200]!r}") from error
