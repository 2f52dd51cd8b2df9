"""A checkpoint's weights on disk: one safetensors file, or several with an index.

Every tensor is checked against the shape the model needs before a byte of it is used, and
whatever is wrong with a file is said with its name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES: Final = ("F32", "BF16", "F16")
_FP8_DTYPES: Final = ("F8_E4M3",)


class SafetensorsFiles:
    """All tensors of a checkpoint folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        if (folder / _SINGLE).exists():
            file = self._open(_SINGLE)
            self._file_of = dict.fromkeys(file.keys(), _SINGLE)
        elif (folder / _INDEX).exists():
            self._file_of = _read_index(folder / _INDEX)
        else:
            raise CheckpointError(
                f"{folder}: expected {_SINGLE} or {_INDEX}, found"
                f" {sorted(path.name for path in folder.iterdir())}"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def names(self) -> set[str]:
        return set(self._file_of)

    def copy_into(
        self, target: torch.Tensor, name: str, shape: Sequence[int], part: Sequence[range]
    ) -> None:
        """Fill `target` with a part of the tensor `name`, converting its type.

        `shape` is the whole tensor's; `part` has the range wanted of its first dimensions, and no
        other bytes are read.
        """
        if name not in self._file_of:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        file_name = self._file_of[name]
        path = self.folder / file_name
        try:
            view = self._open(file_name).get_slice(name)
            found, dtype = tuple(view.get_shape()), view.get_dtype()
            if found != tuple(shape):
                raise CheckpointError(
                    f"{path}: tensor {name} has shape {found}, config.json implies {tuple(shape)}"
                )
            supported = _FP8_DTYPES if target.dtype == torch.float8_e4m3fn else _DTYPES
            if dtype not in supported:
                raise UnsupportedModel(
                    f"{path}: tensor {name} has type {dtype}; supported are {', '.join(supported)}"
                )
            target.copy_(view[tuple(slice(each.start, each.stop) for each in part)])
        except SafetensorError as error:
            raise CheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error

    def _open(self, file_name: str) -> Any:
        if file_name not in self._files:
            path = self.folder / file_name
            try:
                self._files[file_name] = safe_open(path, framework="pt", device="cpu")
            except FileNotFoundError:
                raise CheckpointError(f"{path}: not found, but {_INDEX} names it") from None
            except (SafetensorError, OSError) as error:
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
