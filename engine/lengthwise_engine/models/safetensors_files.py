"""A checkpoint's weights on disk: one safetensors file, or several with an index.

Every tensor is checked against the shape the model needs before a byte of it is used or room is
made for it, and whatever is wrong with a file is said with its name.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_engine.models.weights_digest import WeightsDigest

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES: Final = ("F32", "BF16", "F16")
_FP8_DTYPES: Final = ("F8_E4M3",)
_MAX_SHOWN: Final = 8  # files of a folder


class SafetensorsFiles:
    """All tensors of a checkpoint folder, by name."""

    def __init__(self, folder: Path, *, hashed: bool = False) -> None:
        """`hashed`: take the `digest` of all of them."""
        self.folder = folder
        self._files: dict[str, Any] = {}
        if (folder / _SINGLE).exists():
            file = self._open(_SINGLE)
            self._file_of = dict.fromkeys(file.keys(), _SINGLE)
        elif (folder / _INDEX).exists():
            self._file_of = _read_index(folder / _INDEX)
        else:
            found = sorted(path.name for path in folder.iterdir())[:_MAX_SHOWN]
            raise CheckpointError(f"{folder}: expected {_SINGLE} or {_INDEX}, found {found}")
        self._digest = None
        if hashed:
            names = set(self._file_of.values())
            for name in names:
                self._open(name)
            self._digest = WeightsDigest({name: folder / name for name in names})

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def names(self) -> set[str]:
        return set(self._file_of)

    def digest(self) -> str:
        """Of every byte of the weights; empty where they are not hashed."""
        return "" if self._digest is None else self._digest.finish()

    def require(self, name: str, shape: Sequence[int]) -> None:
        """Raises `CheckpointError` unless the tensor `name` has this shape."""
        found = tuple(self._view(name).get_shape())
        if found != tuple(shape):
            raise CheckpointError(
                f"{self._path(name)}: tensor {name} has shape {found}, config.json implies"
                f" {tuple(shape)}"
            )

    def copy_into(
        self, target: torch.Tensor, name: str, shape: Sequence[int], part: Sequence[range]
    ) -> None:
        """Fill `target` with a part of the tensor `name`, converting its type.

        `shape` is the whole tensor's; `part` has the range wanted of its first dimensions, and no
        other bytes are read, but for the digest.
        """
        self.require(name, shape)
        view, path = self._view(name), self._path(name)
        dtype = view.get_dtype()
        supported = _FP8_DTYPES if target.dtype == torch.float8_e4m3fn else _DTYPES
        if dtype not in supported:
            raise UnsupportedModel(
                f"{path}: tensor {name} has type {dtype}; supported are {', '.join(supported)}"
            )
        try:
            target.copy_(view[tuple(slice(each.start, each.stop) for each in part)])
        except SafetensorError as error:
            raise CheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error
        if self._digest is not None:
            self._digest.add(self._file_of[name], name)

    def _path(self, name: str) -> Path:
        return self.folder / self._file_of[name]

    def _view(self, name: str) -> Any:
        if name not in self._file_of:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        try:
            return self._open(self._file_of[name]).get_slice(name)
        except SafetensorError as error:
            path = self._path(name)
            raise CheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error

    def _open(self, file_name: str) -> Any:
        if file_name not in self._files:
            path = self.folder / file_name
            try:
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise CheckpointError(f"{path}: not a regular file")
                self._files[file_name] = safe_open(path, framework="pt", device="cpu")
            except FileNotFoundError:
                raise CheckpointError(f"{path}: not found, but {_INDEX} names it") from None
            # ValueError: no file has such a name.
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
        return self._files[file_name]


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
