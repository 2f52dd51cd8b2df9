"""Weights of projections in the order in which oneDNN's CPU kernels read them.

Plain `linear` brings bfloat16 weights into that order in every call. Packed once they are read at
memory speed, and the results are those of `linear` to the bit for every number of rows. (896 x
9,728, two threads, plain and packed: 1 row 1.26 and 0.60 ms, 8 rows 1.53 and 0.69, 32 rows 2.53
and 1.55, 512 rows 24.2 and 21.5.) Float32 stays plain: packed it is no faster for single rows, and
the sums of a row would depend on how many others there are.
"""

import functools
import platform
from typing import Final

import torch
from torch.nn import functional

from lengthwise_kernels.host_memory import use_huge_pages

_PLANNED_ROWS: Final = 32
"""What the order is chosen for; others were as fast or slower."""


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights of this type are to be packed there."""
    return device.type == "cpu" and dtype == torch.bfloat16 and multiplies_bfloat16()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it (AVX512-BF16, AMX), as oneDNN finds it."""
    if platform.machine() != "x86_64" or not torch._C._has_mkldnn:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A packed copy of `weight` [out, in], for `linear` alone; `to_dense` brings the values back.
    One without values stays as it is.
    """
    if not weight.numel():
        return weight
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _PLANNED_ROWS)
    use_huge_pages(torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed))
    return packed


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x weight^T + bias, [rows, in] to [rows, out]; `weight` [out, in] is plain or packed."""
    if not weight.is_mkldnn:
        return functional.linear(x, weight, bias)
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
