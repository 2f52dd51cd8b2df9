"""How the arrays of a step reach a device: all of them in one copy.

The host writes them one after the other into pinned memory and does not wait for the
copy. That memory comes from PyTorch's pinned allocator, which gives it to no other use before the
copy is done. Each array begins at a multiple of 16 bytes, which Triton's kernels are compiled for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies in a buffer; `offset` is in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        size = self.dtype.itemsize
        for count in self.shape:
            size *= count
        return self.offset + size

    def of(self, buffer: torch.Tensor) -> torch.Tensor:
        """The array as a view of a buffer of bytes."""
        return buffer[self.offset : self.end].view(self.dtype).view(self.shape)


def places(arrays: Arrays) -> dict[str, Place]:
    """Where arrays lie one after the other."""
    result: dict[str, Place] = {}
    offset = 0
    for name, array in arrays.items():
        result[name] = place = Place(offset, array.shape, _DTYPES[array.dtype])
        offset = -(-place.end // _ALIGNMENT) * _ALIGNMENT
    return result


def to_device(arrays: Arrays, device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays as tensors. On the CPU they share the arrays' memory."""
    if device.type == "cpu":
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    where = places(arrays)
    buffer = _pinned(arrays, where, device).to(device, non_blocking=True)
    return {name: place.of(buffer) for name, place in where.items()}


def refill(arrays: Arrays, where: Mapping[str, Place], buffer: torch.Tensor) -> None:
    """Copy the arrays to their places in `buffer`; the last one may be shorter than its place."""
    packed = _pinned(arrays, where, buffer.device)
    buffer[: len(packed)].copy_(packed, non_blocking=True)


def _pinned(arrays: Arrays, where: Mapping[str, Place], device: torch.device) -> torch.Tensor:
    """The arrays in one piece of memory that `device` can read by itself."""
    size = max(where[name].offset + array.nbytes for name, array in arrays.items())
    packed = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = packed.numpy()
    for name, array in arrays.items():
        offset = where[name].offset
        target[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
    return packed


_DTYPES: Final = {
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
}
