"""Messages that might break a reader: made from the descriptors of protobuf, then damaged."""

import json
import math
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

MAX_DEPTH = 4

TEXTS = (
    "", "a", "fuzz", "toy", "lengthwise.v1.Inference", "x" * 129, "y" * 5000, "\n\r\x00\x1b[2J",
    "\u202e\U0001f600", "127.0.0.1:1", "host:99999999", "/dev/zero", "{{ x }}", "%s%n",
)  # fmt: skip
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 1e308, math.inf, -math.inf, math.nan)
LENGTHS = (0, 1, 1, 2, 3, 17, 600)


class Grammar:
    """Equal for equal seeds."""

    def __init__(self, random: Random, names: Sequence[str]) -> None:
        """`names`: texts that the deployment knows."""
        self._random = random
        self._texts = (*TEXTS, *names)

    def message(self, descriptor: Descriptor) -> bytes:
        """The bytes of one; a third of them damaged."""
        data: bytes = self._filled(descriptor, 0).SerializeToString()
        return self.damaged(data) if self._random.random() < 0.3 else data

    def damaged(self, data: bytes) -> bytes:
        random = self._random
        broken = bytearray(data)
        for _ in range(random.randint(1, 4)):
            at = random.randint(0, len(broken))
            kind = random.randrange(5)
            if kind == 0 and at < len(broken):
                broken[at] ^= 1 << random.randrange(8)
            elif kind == 1:
                broken[at:] = b""
            elif kind == 2:
                broken[at:at] = random.randbytes(random.choice((1, 8, 300)))
            elif kind == 3:
                broken[at:at] = broken[: random.randint(0, 64)]
            else:
                broken[at:at] = b"\x0a\xff\xff\xff\xff\x0f"
        return bytes(broken)

    def frame(self) -> bytes:
        """Of the transfer processes: JSON behind its length, or what resembles it."""
        random = self._random
        body = random.choice(
            (
                *(b"[" * random.choice((10, 900, 100_000)), b'{"a":' * 500, random.randbytes(40)),
                *(b"1" * 5000, b"1e999", b'"\\ud800"', b'"' + b"n" * 256 + b'"', b"null"),
                json.dumps(self._json(0)).encode(errors="surrogatepass"),
                json.dumps(
                    {"message": random.choice(("Setup", "Connect", "Offer", "Pulled"))}
                ).encode(),
            )
        )
        length = random.choice((len(body), len(body), 0, 1, 2**31, 2**32 - 1))
        data = struct.pack("!I", length) + body
        return self.damaged(data) if random.random() < 0.3 else data

    def _json(self, depth: int) -> Any:
        random = self._random
        kind = random.randrange(4 if depth < MAX_DEPTH else 2)
        if kind == 0:
            return random.choice(TEXTS)
        if kind == 1:
            return random.choice((0, -1, 2**63, 2**64, 10**400, 0.5, None, True))
        if kind == 2:
            return [self._json(depth + 1) for _ in range(random.randrange(4))]
        names = ("message", "sequence", "piece", "link")
        return {random.choice(names): self._json(depth + 1) for _ in range(random.randrange(4))}

    def _filled(self, descriptor: Descriptor, depth: int) -> Message:
        message = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._random.random() < 0.4 or (depth >= MAX_DEPTH and field.message_type):
                continue
            if not field.is_repeated:
                self._set(message, field, depth)
            elif not (field.message_type and field.message_type.GetOptions().map_entry):
                values = getattr(message, field.name)
                count = self._random.choice(LENGTHS[: 5 if field.message_type else None])
                values.extend(self._value(field, depth) for _ in range(count))
        return message

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        value = self._value(field, depth)
        if field.message_type:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        random = self._random
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_MESSAGE:
                assert field.message_type is not None
                return self._filled(field.message_type, depth + 1)
            case FieldDescriptor.CPPTYPE_STRING:
                text = random.choice(self._texts)
                return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return random.choice(REALS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return random.choice((0, 1, 2, 99))
            case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
                most = 2**32 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT32 else 2**64
                return random.choice((0, 1, 2, 16, 250, 5000, most - 1))
            case FieldDescriptor.CPPTYPE_INT32:
                return random.choice((0, 1, -1, 100, 2**31 - 1, -(2**31)))
        return random.choice((0, 1, -1, 2**63 - 1, -(2**63)))
