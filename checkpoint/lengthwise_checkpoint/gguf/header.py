"""The header of a GGUF file: its metadata, and where its tensors lie.

Read here and not by the package gguf, which makes arrays of every string (2.3 s of a core for the
49,152 tokens of SmolLM2, here 0.1 s) and takes counts and lengths as they come. Nothing is read,
and no room made for it, before the file was found to have so many bytes.
"""

import math
import os
import struct
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from lengthwise_checkpoint.config_json import MAX_INTEGER, ConfigJson
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.gguf.tensor_types import TENSOR_TYPES, TensorType

MAX_HEADER_BYTES: Final = 128 << 20
"""Of metadata and the list of tensors; vocabularies of 262,144 tokens with merges have 20 MB."""

MAX_TOKENS: Final = 1 << 22
"""Values of an array; the largest vocabularies have 2^18 tokens, and twice as many merges."""

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32
_SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of values as `struct` calls them."""
_STRING: Final = 8
_ARRAY: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """`shape` with rows first, as torch has it; `begin` and `end` in bytes of its file."""

    type: TensorType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """Of one file. An array of numbers in `metadata` is an `array`."""

    path: Path
    metadata: ConfigJson
    tensors: Mapping[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Raises `CheckpointError`, and `UnsupportedModel` for sound types that are not known."""
    try:
        with path.open("rb") as file:
            header = _HeaderFile(path, file)
            num_tensors, metadata = _read_start(header)
            tensors = _read_tensors(header, num_tensors, metadata)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return GgufHeader(path=path, metadata=metadata, tensors=tensors)


class _HeaderFile:
    """Reads one value after the other, none beyond the end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        self._file = file

    def bytes(self, count: int) -> bytes:
        end = self.at + count
        if end > self.size:
            raise self.error(
                f"ends in its header: {end} bytes are announced, the file has {self.size}"
            )
        if end > MAX_HEADER_BYTES:
            raise self.error(
                f"a header of {end} bytes or more, expected {MAX_HEADER_BYTES} at most"
            )
        read = self._file.read(count)
        if len(read) < count:
            raise self.error("was made shorter while it was read")
        self.at = end
        return read

    def number(self, kind: str) -> int | float | bool:
        """`kind` as `struct` calls it."""
        value: int | float | bool = struct.unpack(
            "<" + kind, self.bytes(struct.calcsize("<" + kind))
        )[0]
        return value

    def integer(self, kind: str) -> int:
        return int(self.number(kind))

    def text(self) -> str:
        """A length and so many bytes of UTF-8."""
        try:
            return self.bytes(self.integer("Q")).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 before byte {self.at}: {error}") from error

    def value(self, key: str) -> object:
        """A type and a value of it."""
        kind = self.integer("I")
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _ARRAY:
            return self._array(key)
        raise self.error(f"{key}: a value of type {kind}, which GGUF does not know")

    def _array(self, key: str) -> object:
        kind, count = self.integer("I"), self.integer("Q")
        if count > MAX_TOKENS:
            raise self.error(f"{key}: got {count} values, expected {MAX_TOKENS} at most")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise self.error(f"{key}: an array of type {kind}, expected strings or numbers")
        letter = "B" if kind == 7 else _SCALARS[kind]
        values = array(letter)
        values.frombytes(self.bytes(count * struct.calcsize("<" + letter)))
        if sys.byteorder == "big":
            values.byteswap()
        return values

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")


def _read_start(header: _HeaderFile) -> tuple[int, ConfigJson]:
    """How many tensors there are, and the metadata."""
    if header.size < len(MAGIC) or header.bytes(len(MAGIC)) != MAGIC:
        raise header.error("not a GGUF file: it does not begin with GGUF")
    version = header.integer("I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        got = "big-endian numbers" if swapped in _VERSIONS else f"GGUF version {version}"
        raise UnsupportedModel(
            f"{header.path}: {got}; supported are versions 2 and 3, little-endian"
        )
    num_tensors, num_values = header.integer("Q"), header.integer("Q")
    values: dict[str, object] = {}
    for _ in range(num_values):
        key = header.text()
        if key in values:
            raise header.error(f"{key}: twice in the metadata")
        values[key] = header.value(key)
    return num_tensors, ConfigJson(header.path, values)


def _read_tensors(
    header: _HeaderFile, num_tensors: int, metadata: ConfigJson
) -> dict[str, GgufTensor]:
    """By name; each was found to lie within the file."""
    entries: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
    for _ in range(num_tensors):
        name = header.text()
        if name in entries:
            raise header.error(f"tensor {name}: twice in the file")
        entries[name] = _read_entry(header, name)
    alignment = metadata.integer("general.alignment", _ALIGNMENT, maximum=1 << 20)
    start = -(-header.at // alignment) * alignment
    tensors = {}
    for name, (kind, shape, offset) in entries.items():
        num_bytes = math.prod(shape) // kind.block_weights * kind.block_bytes
        begin = start + offset
        if offset % alignment or begin + num_bytes > header.size:
            raise header.error(
                f"not whole: tensor {name} takes {num_bytes} bytes from byte {begin} on, the file"
                f" has {header.size}"
            )
        tensors[name] = GgufTensor(type=kind, shape=shape, begin=begin, end=begin + num_bytes)
    _check_apart(header, tensors)
    return tensors


def _check_apart(header: _HeaderFile, tensors: Mapping[str, GgufTensor]) -> None:
    in_order = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    for (name, tensor), (following, other) in pairwise(in_order):
        if other.begin < tensor.end:
            raise header.error(
                f"tensors {name} and {following} lie over one another, from byte {other.begin} on"
            )


def _read_entry(header: _HeaderFile, name: str) -> tuple[TensorType, tuple[int, ...], int]:
    num_dimensions = header.integer("I")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise header.error(
            f"tensor {name}: got {num_dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}"
        )
    dimensions = [header.integer("Q") for _ in range(num_dimensions)]
    number, offset = header.integer("I"), header.integer("Q")
    if number not in TENSOR_TYPES:
        names = ", ".join(kind.name for kind in TENSOR_TYPES.values())
        raise UnsupportedModel(
            f"{header.path}: tensor {name} has type {number}; supported are {names}"
        )
    kind = TENSOR_TYPES[number]
    if not all(1 <= size <= MAX_INTEGER for size in dimensions):
        raise header.error(f"tensor {name}: got dimensions {dimensions}")
    if dimensions[0] % kind.block_weights:
        raise header.error(
            f"tensor {name}: rows of {dimensions[0]} weights, expected whole blocks of"
            f" {kind.block_weights}, which {kind.name} has"
        )
    return kind, tuple(reversed(dimensions)), offset
