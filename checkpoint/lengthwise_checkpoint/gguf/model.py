"""A model in GGUF: one file, or the parts that llama.cpp's splitting makes of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.gguf.header import GgufHeader, GgufTensor, read_header

SUFFIX: Final = ".gguf"
MAX_PARTS: Final = 1024
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """`metadata` is the first part's."""

    path: Path
    metadata: ConfigJson
    parts: tuple[GgufHeader, ...]

    @property
    def tensors(self) -> Mapping[str, GgufTensor]:
        """Of all parts, by llama.cpp's names."""
        return {name: tensor for part in self.parts for name, tensor in part.tensors.items()}


def is_gguf(checkpoint: Path) -> bool:
    """Whether a checkpoint is a file, which then is one of GGUF, and not a folder."""
    return checkpoint.is_file()


def first_parts(names: list[str]) -> list[str]:
    """Of names of files those of models: a model in parts is named by its first one."""
    found = [name for name in sorted(names) if name.endswith(SUFFIX)]
    return [name for name in found if int(_part_number(name) or 1) == 1]


def parts_pattern(name: str) -> str:
    """What names all parts of a model, for a file of that name."""
    part = _PART.fullmatch(name)
    return f"{part[1]}-?????-of-{part[3]}{SUFFIX}" if part else name


def whole_name(name: str) -> str:
    """A file's name without the number of its part and without .gguf; any other as it is."""
    part = _PART.fullmatch(name)
    return part[1] if part else name.removesuffix(SUFFIX)


def read_gguf(path: Path) -> GgufModel:
    """Raises `CheckpointError`. Read again only where the file is another: a process asks for what
    is in it six times while it starts."""
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return _read_parts(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=1)
def _read_parts(path: Path, stamp: tuple[int, ...]) -> GgufModel:
    first = read_header(path)
    count = first.metadata.integer("split.count", 1, minimum=0, maximum=MAX_PARTS)
    parts = [first]
    if count > 1:
        name = _PART.fullmatch(path.name)
        if name is None or int(name[2]) != 1 or int(name[3]) != count:
            raise CheckpointError(
                f"{path}: a part of a model in {count} files; name the first, which ends with"
                f" -00001-of-{count:05}{SUFFIX}"
            )
        others = (
            path.with_name(f"{name[1]}-{number:05}-of-{name[3]}{SUFFIX}")
            for number in range(2, count + 1)
        )
        parts += [read_header(other) for other in others]
        _check_parts(path, parts)
    return GgufModel(path=path, metadata=first.metadata, parts=tuple(parts))


def _part_number(name: str) -> str | None:
    part = _PART.fullmatch(name)
    return part and part[2]


def _check_parts(path: Path, parts: list[GgufHeader]) -> None:
    """That they are of one model, each of them once."""
    for number, part in enumerate(parts):
        if (got := part.metadata.integer("split.no", 0, minimum=0)) != number:
            raise CheckpointError(f"{part.path}: says it is part {got + 1}, expected {number + 1}")
    names = [name for part in parts for name in part.tensors]
    expected = parts[0].metadata.integer("split.tensors.count", len(names))
    if len(set(names)) != len(names) or len(names) != expected:
        raise CheckpointError(
            f"{path}: its parts have {len(names)} tensors, {len(set(names))} of them different,"
            f" expected {expected}: they are not of one model"
        )
