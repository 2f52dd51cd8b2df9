"""How many fields a message has, counted before it is parsed.

Parsing makes an object of each message within a message, so that 5 MiB can become 2.6 million
objects. Numbers are cheap: a packed list of them is one field.
"""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lengthwise_wire.errors import InvalidRequest, PromptTooLong
from lengthwise_wire.limits import MAX_MESSAGES, MAX_PROMPT_TOKENS

UNCOUNTED_BYTES = 1 << 16
"""Smaller messages have few enough fields, whatever they hold."""

MAX_INNER_MESSAGES = 2 * MAX_MESSAGES + 1024
"""Messages within a message: those of the longest conversation, a call for each, and entries of
maps."""

MAX_FREE_FIELDS = 1024
"""Fields besides four for each message within the message."""

_CONTINUED = bytes(range(128, 256))
_NUMBERS = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def check_num_fields(
    data: bytes, message: type[Message], max_numbers: int = MAX_PROMPT_TOKENS
) -> None:
    """Errors: InvalidRequest when the encoded message has more messages or other fields than any
    has that is accepted, or groups; PromptTooLong when it has a packed list of more than
    `max_numbers`. What is no message is left to the parser."""
    if len(data) <= UNCOUNTED_BYTES:
        return
    try:
        _count(data, message.DESCRIPTOR.fields_by_number, max_numbers)
    except (IndexError, _NotProtobuf):
        return


class _NotProtobuf(Exception):
    pass


def _count(data: bytes, fields: Any, max_numbers: int) -> None:
    """`fields`: by their numbers."""
    position, end = 0, len(data)
    outer: list[tuple[Any, int]] = []  # the messages around this one: their fields and ends
    free = MAX_FREE_FIELDS
    inner = 0
    while True:
        while position == end:
            if not outer:
                return
            fields, end = outer.pop()
        tag = data[position]
        position += 1
        if tag >= 128:
            tag, position = _varint(data, position - 1)
        kind = tag & 7
        free -= 1
        if kind == _LENGTH:
            length = data[position]
            position += 1
            if length >= 128:
                length, position = _varint(data, position - 1)
            if position + length > end:
                raise _NotProtobuf
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None:
                inner += 1
                free += 5
                outer.append((fields, end))
                fields, end = field.message_type.fields_by_number, position + length
            else:
                if length > max_numbers and field is not None and field.cpp_type in _NUMBERS:
                    _check_packed(data[position : position + length], field.name, max_numbers)
                position += length
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        else:
            raise InvalidRequest("the message has groups, which no method takes")
        if inner > MAX_INNER_MESSAGES or free < 0:
            raise InvalidRequest(
                f"the message of {len(data)} bytes has more than {MAX_INNER_MESSAGES} messages in"
                f" it, or more than {MAX_FREE_FIELDS} other fields; send numbers packed"
            )
        if position > end:
            raise _NotProtobuf


def _check_packed(packed: bytes, name: str, most: int) -> None:
    # The last byte of each number is the one below 128. Token ids have four bytes at most.
    if len(packed) > 4 * most or len(packed.translate(None, _CONTINUED)) > most:
        raise PromptTooLong(
            f"{name}: got {len(packed)} bytes of token ids, expected at most {most} token ids"
        )


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number there, and where it ends."""
    byte = data[position]
    position += 1
    if byte < 128:
        return byte, position
    number, shift = byte & 127, 7
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
        if shift > 63:
            raise _NotProtobuf
