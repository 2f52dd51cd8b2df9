"""What launches have in common: the checks before them and what they ask of the device.

A kernel is never launched on tensors it was not written for.
"""

import functools
from collections.abc import Sequence
from typing import Final

import torch
import triton
from triton.runtime import driver

from lengthwise_kernels.errors import UnsupportedByKernel

FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS: Final = (torch.int32, torch.int64)

DEVICE_TYPE = "cpu" if triton.knobs.runtime.interpret else "cuda"
"""Where tensors have to lie; Triton's interpreter works on the CPU's."""

_INTERPRETED_MULTIPROCESSORS: Final = 4
_HOPPER_SHARED_BYTES: Final = 227 * 1024


def check(
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
) -> None:
    """Raise `UnsupportedByKernel` unless `tensor` is what a kernel was written for.

    That is a contiguous tensor of `shape` (None: any size) and one of `dtypes` on a GPU. `name`
    says which operation and argument: "rms_norm: weight".
    """
    if (
        tensor.device.type == DEVICE_TYPE
        and tensor.dtype in dtypes
        and tensor.dim() == len(shape)
        and all(size in (None, got) for size, got in zip(shape, tensor.shape, strict=True))
        and tensor.is_contiguous()
    ):
        return
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    raise UnsupportedByKernel(
        f"{name} must be a contiguous [{sizes}] of {' or '.join(map(_name, dtypes))} on"
        f" {DEVICE_TYPE}, got {list(tensor.shape)} of {_name(tensor.dtype)} on {tensor.device} with"
        f" strides {list(tensor.stride())}"
    )


def require(holds: bool, message: str) -> None:
    """Raise `UnsupportedByKernel` with `message` unless `holds`."""
    if not holds:
        raise UnsupportedByKernel(message)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors the GPU has; a few in the interpreter, so that work is shared."""
    if device.type != "cuda":
        return _INTERPRETED_MULTIPROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


@functools.cache
def shared_bytes(device: torch.device) -> int:
    """Shared memory that one program may have; a Hopper GPU's where there is none."""
    if device.type != "cuda":
        return _HOPPER_SHARED_BYTES
    index = torch.cuda.current_device() if device.index is None else device.index
    size: int = driver.active.utils.get_device_properties(index)["max_shared_mem"]
    return size


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
