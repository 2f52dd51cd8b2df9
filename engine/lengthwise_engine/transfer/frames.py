"""What crosses a socket: JSON values of known types, each behind a four-byte length.

Nothing is ever unpickled, and no work is done for a frame before its length was checked.
"""

import struct
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

from lengthwise_engine.errors import EngineError

MAX_FRAME_BYTES: Final = 64 * 2**20
"""Of frames between processes of one worker. A piece of a million blocks is 7 MB of JSON."""

_LENGTH: Final = struct.Struct("!I")

Value = TypeVar("Value")


class FrameError(Exception):
    """The bytes on a socket are not frames of this protocol."""


class Framed(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag=True,
    tag_field="message",
    forbid_unknown_fields=True,
):
    """Base of the messages: on the wire the name of the class goes with its fields."""


def frame(value: object) -> bytes:
    """`value` is a message, or anything else that msgspec knows as JSON."""
    body = msgspec.json.encode(value)
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[Value]):
    """Cuts a byte stream into the values of one decoder."""

    def __init__(
        self, decoder: msgspec.json.Decoder[Value], max_bytes: int = MAX_FRAME_BYTES
    ) -> None:
        self._decoder = decoder
        self._max_bytes = max_bytes
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Value]:
        """The values that `data` completes. Raises FrameError for anything else than such values,
        or longer ones than `max_bytes`."""
        self._bytes += data
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > self._max_bytes:
                raise FrameError(f"frame of {length} bytes, expected at most {self._max_bytes}")
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                return
            body = bytes(self._bytes[_LENGTH.size : end])
            del self._bytes[:end]
            yield self._decode(body)

    def _decode(self, body: bytes) -> Value:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, EngineError, RecursionError, ValueError) as error:
            raise FrameError(f"unexpected frame: {error}, got {body[:200]!r}") from error
