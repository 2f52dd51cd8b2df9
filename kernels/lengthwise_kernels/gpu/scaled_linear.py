"""Matrix products of 8-bit floating-point numbers with a scale for each row of either side.

    out[i, j] = x.scales[i] weight.scales[j] sum_k x.values[i, k] weight.values[j, k] + bias[j]

x.values: e4m3 [rows, in]; weight.values: e4m3 [out, in]; scales float32; bias [out] and the result
[rows, out] of one of float32, bfloat16 and float16.

Compute-bound for prompts, bound by the bytes of the weights while decoding. What cuBLAS and CUTLASS
compute goes to them, through `torch.nn.functional.scaled_mm`: bfloat16, sizes that are multiples of
16. Hopper adds 8-bit products with 14 bits and moves sums to float32 only at the end unless asked
otherwise ("fast accumulation"). Over a few thousand products that errs by up to 2 %, the rounding
of the factors by 3 to 4 %, so it stays on; the Triton kernel, for everything else, moves sums to
float32 after each tile. (FP8 training of DeepSeek-V3, arXiv:2412.19437, section 3.3.2.)
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch.nn.functional import ScalingType, scaled_mm

from lengthwise_kernels.gpu.launch import FLOATS, check, require
from lengthwise_kernels.reference.fp8 import E4M3, Fp8Rows

_MULTIPLE: Final = 16
"""Of `in` and `out`: what cuBLAS and CUTLASS read is aligned to 16 bytes."""

_FIRST_CAPABILITY: Final = (8, 9)

_FIRST_TORCH: Final = (2, 12)
"""Products with scales for rows ignored the current stream before (pytorch#177651): wrong beside
other streams, and fatal while a graph is captured."""

INVARIANT_ROWS: Final = 64
"""Rows of a tile where every number of rows has to be computed alike: what a group of four warps
multiplies at once. More would let a few rows wait for the matrix units rather than for weights."""


@triton.jit(do_not_specialize=["rows"])
def _linear_kernel(
    x_ptr, x_scales_ptr, weight_ptr, weight_scales_ptr, bias_ptr, out_ptr, rows, outputs, inputs,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Neighbours share columns of the weights and take all rows, so that weights are read once.
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_output = row < rows, output < outputs
    x_row = x_ptr + row.to(tl.int64)[:, None] * inputs
    weight_row = weight_ptr + output.to(tl.int64)[None, :] * inputs
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, inputs, BLOCK_K):
        number = start + tl.arange(0, BLOCK_K)
        is_number = number < inputs
        a = tl.load(x_row + number[None, :], mask=is_row[:, None] & is_number[None, :], other=0.0)
        b = tl.load(
            weight_row + number[:, None], mask=is_output[None, :] & is_number[:, None], other=0.0
        )
        acc = tl.dot(a, b, acc, max_num_imprecise_acc=BLOCK_K, input_precision="ieee")
    if x_scales_ptr is not None:
        x_scale = tl.load(x_scales_ptr + row, mask=is_row, other=0.0)
        weight_scale = tl.load(weight_scales_ptr + output, mask=is_output, other=0.0)
        acc = acc * x_scale[:, None] * weight_scale[None, :]
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + output, mask=is_output, other=0.0).to(tl.float32)[None, :]
    target = out_ptr + row.to(tl.int64)[:, None] * outputs + output[None, :]
    inside = is_row[:, None] & is_output[None, :]
    tl.store(target, acc.to(out_ptr.dtype.element_ty), mask=inside)


def check_fp8(device: torch.device) -> None:
    """Raise `UnsupportedByKernel` if the GPU has no matrix units for 8-bit floating point, or if
    torch cannot be asked to use them."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    require(
        version >= _FIRST_TORCH,
        f"FP8 needs torch 2.12 or newer, got {torch.__version__}, whose products launch on another"
        " stream than the step's; update torch, or set quantization to none and serve full weights",
    )
    major, minor = torch.cuda.get_device_capability(device)
    require(
        (major, minor) >= _FIRST_CAPABILITY,
        f"FP8 needs a GPU of compute capability 8.9 or more (Ada, Hopper), {device} has"
        f" {major}.{minor}; set quantization to none and serve full weights",
    )


def scaled_linear(
    x: Fp8Rows,
    weight: Fp8Rows,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    *,
    invariant: bool = False,
) -> torch.Tensor:
    """x weight^T + bias, as `dtype` [rows, out]; `weight` has a row for each output. `invariant`: a
    row is the same to the bit whatever rows are beside it."""
    _check(x, weight, bias, dtype)
    if invariant:
        return triton_linear(x, weight, bias, dtype, INVARIANT_ROWS)
    (rows, inputs), outputs = x.values.shape, len(weight.values)
    aligned = inputs % _MULTIPLE == 0 and outputs % _MULTIPLE == 0
    if rows and aligned and dtype == torch.bfloat16 and x.is_cuda:
        return library_linear(x, weight, bias, fast=True)
    return triton_linear(x, weight, bias, dtype)


def library_linear(
    x: Fp8Rows, weight: Fp8Rows, bias: torch.Tensor | None, *, fast: bool
) -> torch.Tensor:
    """By cuBLAS or CUTLASS, in bfloat16; `fast` is their fast accumulation."""
    return scaled_mm(
        x.values,
        weight.values.T,
        scale_a=x.scales.unsqueeze(1),
        scale_recipe_a=ScalingType.RowWise,
        scale_b=weight.scales.unsqueeze(0),
        scale_recipe_b=ScalingType.RowWise,
        bias=bias,
        output_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )


def triton_linear(
    x: Fp8Rows,
    weight: Fp8Rows,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    tile_rows: int | None = None,
) -> torch.Tensor:
    """By Triton, `tile_rows` rows at a time; None: as many as suit."""
    rows = len(x.values)
    if tile_rows is None:
        tile_rows = min(128, max(16, triton.next_power_of_2(rows)))
    out = x.values.new_empty((rows, len(weight.values)), dtype=dtype)
    multiply(x.values, x.scales, weight.values, weight.scales, bias, out, tile_rows)
    return out


def multiply(
    x: torch.Tensor,
    x_scales: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scales: torch.Tensor | None,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    tile_rows: int,
) -> None:
    """`out` = x weight^T + bias, with scales or without, by Triton; x may be of any type here."""
    (rows, inputs), outputs = x.shape, len(weight)
    if rows == 0:
        return
    _linear_kernel[(triton.cdiv(rows, tile_rows), triton.cdiv(outputs, 128))](
        x, x_scales, weight, weight_scales, bias, out, rows, outputs, inputs,
        BLOCK_M=tile_rows, BLOCK_N=128, BLOCK_K=128 // x.itemsize,
        num_warps=8 if tile_rows == 128 else 4, num_stages=3,
    )  # fmt: skip


def _check(x: Fp8Rows, weight: Fp8Rows, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
    op = "scaled_linear"
    check(f"{op}: x", x.values, [None, None], (E4M3,))
    check(f"{op}: x scales", x.scales, [len(x.values)], (torch.float32,))
    check(f"{op}: weight", weight.values, [None, x.values.shape[1]], (E4M3,))
    check(f"{op}: weight scales", weight.scales, [len(weight.values)], (torch.float32,))
    require(dtype in FLOATS, f"{op}: the result must be one of {FLOATS}, got {dtype}")
    if bias is not None:
        check(f"{op}: bias", bias, [len(weight.values)], (dtype,))
