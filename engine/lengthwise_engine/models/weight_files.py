"""A checkpoint's weights on disk: one safetensors file, several with an index, or GGUF.

Every tensor is checked against the shape the model needs before a byte of it is used or room is
made for it, and whatever is wrong with a file is said with its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.gguf.model import is_gguf
from lengthwise_checkpoint.gguf.tensor_types import BLOCK_INPUTS
from lengthwise_checkpoint.progress import ByteProgress
from lengthwise_engine.models.gguf_file import GgufFile, open_gguf
from lengthwise_engine.models.integers.blocks import codes_of_blocks
from lengthwise_engine.models.integers.codes import Codes
from lengthwise_engine.models.tensor_file import PIECE_BYTES, TensorFile, TensorPlace
from lengthwise_engine.models.weights_digest import WeightsDigest

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_EXACT_DTYPES: Final = {
    torch.float8_e4m3fn: ("F8_E4M3",),
    torch.int8: ("I8",),
    torch.int32: ("I32", "I64"),
    torch.int64: ("I64", "I32"),
}
"""What may be read as a type that is not one of the full numbers'."""
_MAX_SHOWN: Final = 8  # files of a folder


@dataclass(frozen=True, slots=True)
class TensorPart:
    """The ranges that are wanted of a tensor's dimensions; `shape` is the whole tensor's."""

    name: str
    shape: tuple[int, ...]
    kept: tuple[range, ...]

    @classmethod
    def whole(cls, name: str, shape: tuple[int, ...]) -> "TensorPart":
        return cls(name, shape, tuple(map(range, shape)))

    @property
    def has_whole_rows(self) -> bool:
        return all(map(_is_whole, self.kept[1:], self.shape[1:]))


def _is_whole(kept: range, size: int) -> bool:
    return kept == range(size)


class WeightFiles:
    """All tensors of a checkpoint, by name."""

    def __init__(self, folder: Path, *, hashed: bool = False) -> None:
        """`hashed`: take the `digest` of all of them."""
        self.folder = folder
        self._files: dict[str, TensorFile] = {}
        if is_gguf(folder):
            self._files.update(open_gguf(folder))
            self._file_of = {
                name: file_name for file_name, file in self._files.items() for name in file.places
            }
        elif (folder / _SINGLE).exists():
            self._file_of = dict.fromkeys(self._open(_SINGLE).places, _SINGLE)
        elif (folder / _INDEX).exists():
            self._file_of = _read_index(folder / _INDEX)
            for file_name in sorted(set(self._file_of.values())):
                self._open(file_name)
        else:
            found = sorted(path.name for path in folder.iterdir())[:_MAX_SHOWN]
            raise CheckpointError(f"{folder}: expected {_SINGLE} or {_INDEX}, found {found}")
        self._digest = WeightsDigest(self._files) if hashed else None
        self._mapped_bytes = 0
        places = [place for file in self._files.values() for place in file.places.values()]
        total = sum(place.end - place.begin for place in places)
        self._progress = ByteProgress(f"loading {folder.name}", f"loaded {folder.name}", total)
        self._is_told = hashed  # by one of several ranks

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    @property
    def is_changed(self) -> bool:
        """Whether a file was written to in place, and with it what is mapped."""
        return bool(self._mapped_bytes) and any(file.is_changed for file in self._files.values())

    def names(self) -> set[str]:
        return set(self._file_of)

    def digest(self) -> str:
        """Of every byte of the weights; empty where they are not hashed."""
        return "" if self._digest is None else self._digest.finish()

    def hash_all(self) -> str:
        """The same for one who reads the tensors himself: tells how far it is."""
        for file_name, file in self._files.items():
            for name, place in file.places.items():
                if self._digest is not None:
                    self._digest.add(file_name, name)
                self._tell(place.end - place.begin)
        self.log_end()
        return self.digest()

    def log_end(self) -> None:
        """All that was wanted is loaded."""
        mapped = f", {self._mapped_bytes / 2**20:,.0f} MiB of them mapped and not copied"
        if self._is_told:
            self._progress.finish(mapped if self._mapped_bytes else "")

    def require(self, part: TensorPart) -> None:
        """Raises `CheckpointError` unless the tensor has the shape that is expected."""
        found = self._place(part.name).shape
        if found != part.shape:
            raise CheckpointError(
                f"{self._file(part.name).path}: tensor {part.name} has shape {found}, config.json"
                f" implies {part.shape}"
            )

    def map(self, parts: Sequence[TensorPart], dtype: torch.dtype) -> torch.Tensor | None:
        """The parts one below the other as they are stored, read-only: no byte is copied. None
        where they do not lie so in one file, or in another type."""
        file = self._file(parts[0].name)
        begin = end = self._rows(parts[0])[0]
        for part in parts:
            first, last = self._rows(part)
            follows = first == end and self._file(part.name) is file and part.has_whole_rows
            if not follows or not file.can_map(part.name, dtype):
                return None
            end = last
        if begin == end or begin % dtype.itemsize:
            return None
        for part in parts:
            self._read(part.name)
            first, last = self._rows(part)
            for at in range(first, last, PIECE_BYTES):
                piece = min(PIECE_BYTES, last - at)
                file.fetch(at, at + piece)
                self._tell(piece)
        self._mapped_bytes += end - begin
        return file.rows(begin, end, dtype).view(-1, *parts[0].shape[1:])

    def copy_into(self, target: torch.Tensor, part: TensorPart) -> None:
        """Fill `target`, converting the type, a piece at a time. No rows but the part's are read,
        except for the digest."""
        file, place = self._file(part.name), self._place(part.name)
        supported = _EXACT_DTYPES.get(target.dtype, file.full_dtypes)
        if place.dtype not in supported:
            raise UnsupportedModel(
                f"{file.path}: tensor {part.name} has type {place.dtype}; supported are"
                f" {', '.join(supported)}"
            )
        self._read(part.name)
        columns = tuple(slice(kept.start, kept.stop) for kept in part.kept[1:])
        at = 0
        for rows in file.read_rows(part.name, part.kept[0]):
            target[at : at + len(rows)].copy_(rows[(slice(None), *columns)])
            self._tell(len(rows) * place.row_bytes)
            at += len(rows)

    def kept_bits(self, part: TensorPart) -> int:
        """Of its integers, if `read_codes` can read them; else 0."""
        file = self._file(part.name)
        is_whole = all(
            kept.start % BLOCK_INPUTS == 0 and (kept.stop % BLOCK_INPUTS == 0 or kept.stop == size)
            for kept, size in zip(part.kept[1:], part.shape[1:], strict=True)
        )
        return file.kind(part.name).kept_bits if isinstance(file, GgufFile) and is_whole else 0

    def read_codes(self, part: TensorPart) -> Codes:
        """The part of a matrix of GGUF, the integers as they are stored."""
        file, place = self._file(part.name), self._place(part.name)
        assert isinstance(file, GgufFile)
        self._read(part.name)
        pieces = []
        for rows in file.raw_rows(part.name, part.kept[0]):
            pieces.append(codes_of_blocks(file.kind(part.name), rows))
            self._tell(len(rows) * place.row_bytes)
        first, *others = pieces
        whole = first.below(others)
        return whole.part(range(len(whole.values)), part.kept[1])

    def _tell(self, num_bytes: int) -> None:
        if self._is_told:
            self._progress.add(num_bytes)

    def _read(self, name: str) -> None:
        """Hashes it before it is used, which brings it into memory in one pass."""
        if self._digest is not None:
            self._digest.add(self._file_of[name], name)

    def _rows(self, part: TensorPart) -> tuple[int, int]:
        """Where the part's rows begin and end in their file."""
        place, kept = self._place(part.name), part.kept[0]
        first = place.begin + kept.start * place.row_bytes
        return first, first + len(kept) * place.row_bytes

    def _file(self, name: str) -> TensorFile:
        if name not in self._file_of:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        return self._files[self._file_of[name]]

    def _place(self, name: str) -> TensorPlace:
        file = self._file(name)
        if name not in file.places:
            raise CheckpointError(
                f"{file.path}: tensor {name} cannot be read: {_INDEX} names this file for it"
            )
        return file.places[name]

    def _open(self, file_name: str) -> TensorFile:
        path = self.folder / file_name
        try:
            return self._files.setdefault(file_name, TensorFile(path))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: not found, but {_INDEX} names it") from None


def _read_index(path: Path) -> dict[str, str]:
    weight_map = ConfigJson.read(path).object("weight_map")
    names: Sequence[str] = weight_map.keys()
    if not names:
        raise CheckpointError(f"{path}: weight_map is missing or empty")
    file_of = {name: weight_map.text(name) for name in names}
    for name, file_name in file_of.items():
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{path}: {name} lies in {file_name!r}, outside the folder")
    return file_of
