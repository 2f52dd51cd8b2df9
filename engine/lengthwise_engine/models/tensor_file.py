"""One safetensors file, mapped: where its tensors lie, and their bytes without a copy.

What is only read through the mapping is let go of again, so that it never counts beside what was
made of it; what is computed as it is stored stays mapped, and workers of one machine share it.
"""

import json
import mmap
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from lengthwise_checkpoint.errors import CheckpointError

DTYPES: Final = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Of safetensors, those that are read."""

PIECE_BYTES: Final = 16 << 20
"""Read at once: what a conversion holds of the file, and what progress is told by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Of a tensor, in bytes from the beginning of its file. `dtype` as safetensors calls it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def row_bytes(self) -> int:
        return (self.end - self.begin) // max(1, self.shape[0] if self.shape else 1)


class TensorFile:
    """A file that was found to be whole. It stays open."""

    full_dtypes: Sequence[str] = ("F32", "BF16", "F16")
    """Types of tensors that become numbers of any type."""

    def __init__(self, path: Path) -> None:
        """Raises `CheckpointError`, and FileNotFoundError."""
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # ValueError: no file has such a name
            raise CheckpointError(f"{path}: cannot be opened: {error}") from error
        try:
            self.places = self._open()
        except BaseException:
            os.close(self.descriptor)
            raise
        self._written = self._writing()

    def __del__(self) -> None:
        if hasattr(self, "_written"):
            os.close(self.descriptor)

    def _open(self) -> dict[str, TensorPlace]:
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            raise CheckpointError(f"{self.path}: not a regular file")
        return self._read_places()

    @cached_property
    def _memory(self) -> mmap.mmap:
        """Made when it is needed: it takes another file descriptor."""
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)

    def _read_places(self) -> dict[str, TensorPlace]:
        try:
            # Checks the header, and that its tensors fill the file exactly.
            with safe_open(f"/proc/self/fd/{self.descriptor}", framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: not a whole safetensors file: {error}") from error
        return dict(_read_header(self.descriptor))

    @property
    def is_changed(self) -> bool:
        """Whether it was written to, in place, since it was opened."""
        return self._writing() != self._written

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor as it is stored, which must not be written to."""
        place = self.places[name]
        return self.rows(place.begin, place.end, DTYPES[place.dtype]).view(place.shape)

    def read(self, name: str) -> torch.Tensor:
        """A copy of the whole tensor, as it is stored. Not through the mapping, which ends a
        process that reads where a file was cut. Errors: CheckpointError where it was."""
        place = self.places[name]
        data = bytearray(os.pread(self.descriptor, place.end - place.begin, place.begin))
        if len(data) < place.end - place.begin:
            raise CheckpointError(f"{self.path}: was cut while it was read, in tensor {name}")
        if not data:
            return torch.empty(place.shape, dtype=DTYPES[place.dtype])
        return torch.frombuffer(data, dtype=DTYPES[place.dtype]).view(place.shape)

    def can_map(self, name: str, dtype: torch.dtype) -> bool:
        """Whether the tensor's bytes are its numbers in `dtype`, row after row."""
        return DTYPES.get(self.places[name].dtype) == dtype

    def read_rows(self, name: str, kept: range) -> Iterator[torch.Tensor]:
        """Some rows of a tensor, whole and in pieces, each to be used before the next is taken."""
        place = self.places[name]
        count = max(1, PIECE_BYTES // place.row_bytes)
        at = place.begin + kept.start * place.row_bytes
        for rows in torch.split(self.tensor(name)[kept.start : kept.stop], count):
            yield rows
            self.let_go(at, at + len(rows) * place.row_bytes)
            at += len(rows) * place.row_bytes

    def rows(self, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """What lies there, one-dimensional."""
        if begin == end:
            return torch.empty(0, dtype=dtype)
        with warnings.catch_warnings():
            # torch warns that it cannot prevent writes; the system does.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            count = (end - begin) // dtype.itemsize
            return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=begin)

    def fetch(self, begin: int, end: int) -> None:
        """Bring it into memory, where it stays as long as the system has room."""
        first = begin - begin % mmap.PAGESIZE
        self._memory.madvise(mmap.MADV_WILLNEED, first, end - first)
        _ = self._memory[first : end : mmap.PAGESIZE]

    def let_go(self, begin: int, end: int) -> None:
        """It no longer counts as this process's memory; reading it again is no error."""
        first = begin - begin % mmap.PAGESIZE
        if end > first:
            self._memory.madvise(mmap.MADV_DONTNEED, first, end - first)

    def _writing(self) -> tuple[int, int]:
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns


def _read_header(descriptor: int) -> Iterator[tuple[str, TensorPlace]]:
    size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    header = json.loads(os.pread(descriptor, size, 8))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        yield (
            name,
            TensorPlace(dtype=entry["dtype"], shape=tuple(entry["shape"]), begin=begin, end=end),
        )
