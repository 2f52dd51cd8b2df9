"""Rows of numbers as 8-bit floats with a scale each, for the matrix products of `scaled_linear`.

    scales[i] = max |x[i]| / 448        values[i] = round(x[i] / scales[i])

x: [rows, size], float32, bfloat16 or float16; values: e4m3 [rows, size]; scales: float32 [rows].
Alone, after RMSNorm of a sum, and after the gate of a feed-forward layer; what comes before is
rounded to the type of x first, as `rms_norm` and `silu_mul` leave it. (Micikevicius et al. 2022,
arXiv:2209.05433.)

Memory-bound: one program holds one row in registers, so that each number is read once. Fused with
what computes the row, quantising costs no pass of its own, and the row is written as bytes.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.e4m3 import quantise
from lengthwise_kernels.gpu.launch import check, require
from lengthwise_kernels.reference.fp8 import E4M3, Fp8Rows

MAX_SIZE: Final = 32_768
"""64 numbers for each of 512 threads: above it a row would not stay in registers."""


@triton.jit
def _quantise_rows_kernel(x_ptr, values_ptr, scales_ptr, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    x = tl.load(x_ptr + row * size + column, mask=inside, other=0.0).to(tl.float32)
    values, scale = quantise(x, tl.max(tl.abs(x)))
    tl.store(values_ptr + row * size + column, values, mask=inside)
    tl.store(scales_ptr + row, scale)


@triton.jit
def _add_rms_norm_fp8_kernel(
    x_ptr, residual_ptr, weight_ptr, sum_ptr, values_ptr, scales_ptr, size, eps, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    offset = row * size + column
    x = tl.load(x_ptr + offset, mask=inside, other=0.0)
    wide = x.to(tl.float32) + tl.load(residual_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    # What is normalised is the sum as it is stored.
    rounded = wide.to(x.dtype)
    tl.store(sum_ptr + offset, rounded, mask=inside)
    wide = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / size + eps)
    normed = (wide * scale).to(x.dtype).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    normed = (normed * weight).to(x.dtype).to(tl.float32)
    values, scale = quantise(normed, tl.max(tl.abs(normed)))
    tl.store(values_ptr + offset, values, mask=inside)
    tl.store(scales_ptr + row, scale)


@triton.jit
def _silu_mul_fp8_kernel(gate_up_ptr, values_ptr, scales_ptr, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up_ptr + row * 2 * size + column, mask=inside, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * size + size + column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    product = (silu * up.to(tl.float32)).to(gate.dtype).to(tl.float32)
    values, scale = quantise(product, tl.max(tl.abs(product)))
    tl.store(values_ptr + row * size + column, values, mask=inside)
    tl.store(scales_ptr + row, scale)


def quantise_rows(x: torch.Tensor) -> Fp8Rows:
    """`x` [rows, size] with scale max |x| / 448 for each row, so that no number overflows."""
    check("quantise_rows: x", x, [None, None])
    out, block, warps = _prepare("quantise_rows", x, x.shape[1])
    if len(x):
        _quantise_rows_kernel[(len(x),)](
            x, out.values, out.scales, x.shape[1], BLOCK=block, num_warps=warps
        )
    return out


def add_rms_norm_fp8(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[Fp8Rows, torch.Tensor]:
    """`add_rms_norm` of [rows, size], the normalised rows quantised."""
    op = "add_rms_norm_fp8"
    check(f"{op}: x", x, [None, None])
    check(f"{op}: residual", residual, x.shape, (x.dtype,))
    check(f"{op}: weight", weight, [x.shape[1]], (x.dtype,))
    out, block, warps = _prepare(op, x, x.shape[1])
    total = torch.empty_like(x)
    if len(x):
        _add_rms_norm_fp8_kernel[(len(x),)](
            x, residual, weight, total, out.values, out.scales, x.shape[1], eps,
            BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return out, total


def silu_mul_fp8(gate_up: torch.Tensor) -> Fp8Rows:
    """`silu_mul` of [rows, 2 size], quantised."""
    op = "silu_mul_fp8"
    check(f"{op}: gate_up", gate_up, [None, None])
    both = gate_up.shape[1]
    require(both % 2 == 0, f"{op}: the last dimension holds two halves, got {both} numbers")
    out, block, warps = _prepare(op, gate_up, both // 2)
    if len(gate_up):
        _silu_mul_fp8_kernel[(len(gate_up),)](
            gate_up, out.values, out.scales, both // 2, BLOCK=block, num_warps=warps
        )
    return out


def _prepare(op: str, x: torch.Tensor, size: int) -> tuple[Fp8Rows, int, int]:
    """Where the result goes, and the numbers and warps of a program."""
    require(0 < size <= MAX_SIZE, f"{op}: rows must have 1..{MAX_SIZE} numbers, got {size}")
    out = Fp8Rows(
        values=x.new_empty((len(x), size), dtype=E4M3),
        scales=x.new_empty((len(x),), dtype=torch.float32),
    )
    block = triton.next_power_of_2(size)
    # 16 numbers per thread: two loads of 16 bytes in flight for each tensor.
    return out, block, min(16, max(1, block // 512))
