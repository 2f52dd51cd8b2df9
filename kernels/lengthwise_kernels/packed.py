"""Weights of projections in the order in which oneDNN's CPU kernels read them.

Plain `linear` brings bfloat16 weights into that order in every call. Packed once they are read at
memory speed, and the results are those of `linear` to the bit for every number of rows. (896 x
9,728, two threads, plain and packed: 1 row 1.26 and 0.60 ms, 8 rows 1.53 and 0.69, 32 rows 2.53
and 1.55, 512 rows 24.2 and 21.5.)

So are weights in float32, where a row then is what oneDNN's plain product has for it beside others,
whether it is alone or not: on CPUs with AVX2 alone. (MKL's `linear`, oneDNN plain with single rows
computed twice, and packed; processor time on one thread of a busy machine. 896 x 9,728: 1 row 2.12,
5.06 and 2.16 ms, 2 rows 4.97, 5.06 and 2.73, 8 rows 7.6, 5.8 and 3.8. 1,024 x 768: 1 row 0.19, 0.46
and 0.29 ms, 2 rows 0.32, 0.46 and 0.29, 8 rows 0.60, 0.65 and 0.48.) What is mapped from its file
stays as it lies there: packed, it would be a copy.
"""

import functools
import platform
from typing import Final

import torch
from torch.nn import functional

from lengthwise_kernels.host_memory import use_huge_pages

_PLANNED_ROWS: Final = 32
"""What the order is chosen for; others were as fast or slower."""

_TRIED: Final = ((0, 67), (0, 1), (1, 3), (3, 6), (0, 7), (40, 41), (6, 39), (66, 67))
"""Rows that are computed apart: ones, twos, threes, ends of tiles."""
_TRIED_OUTPUTS: Final = 1024
"""More are tried as so many, and what is left of them."""


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether all weights of this type are to be packed there."""
    return device.type == "cpu" and dtype == torch.bfloat16 and multiplies_bfloat16()


def packs_copy(weight: torch.Tensor) -> bool:
    """Whether `weight` [out, in], which nothing else needs as it is, is to be packed."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _has_onednn():
        return packs(weight.device, weight.dtype)
    outputs, inputs = weight.shape
    if outputs > 2 * _TRIED_OUTPUTS:
        outputs = _TRIED_OUTPUTS + outputs % _TRIED_OUTPUTS
    return _is_alike_packed(outputs, inputs)


@functools.cache
def _is_alike_packed(outputs: int, inputs: int) -> bool:
    """Whether rows of float32 are alike with packed weights, and as plain oneDNN has them; found by
    computing some."""
    if not outputs:
        return False
    weight = torch.linspace(-3e3, 3e3, outputs * inputs).sin().view(outputs, inputs)
    rows = torch.linspace(0, 2e3, _TRIED[0][1] * inputs).cos().view(-1, inputs)
    plain, packed = _pointwise(rows, weight, None), pack(weight)
    return all(
        torch.equal(_pointwise(rows[begin:end], packed, None), plain[begin:end])
        for begin, end in _TRIED
    )


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it (AVX512-BF16, AMX), as oneDNN finds it."""
    return _has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_onednn() -> bool:
    return platform.machine() == "x86_64" and bool(torch._C._has_mkldnn)


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
    return _pointwise(x, weight, bias)


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
