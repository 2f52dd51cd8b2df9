"""RMSNorm, alone and with the residual added before it.

    sum = x + residual          (rounded to the type of x, which is what the next layer adds to)
    out = round(sum / sqrt(mean(sum^2) + eps)) * weight

x, residual, sum, out: [..., size]; weight: [size]; float32, bfloat16 or float16, the mean always in
float32. Rounded where Hugging Face's models round. (Zhang and Sennrich 2019, arXiv:1910.07467.)

Memory-bound: one program holds one row in registers, so that each number is read once. Fusing the
addition saves a kernel that would write the sum and one that would read it.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check, require

MAX_SIZE: Final = 32_768
"""64 numbers for each of 512 threads: above it a row would not stay in registers."""


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, size, eps,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    inside = column < size
    offset = tl.program_id(0).to(tl.int64) * size + column
    x = tl.load(x_ptr + offset, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    if ADD:
        wide += tl.load(residual_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        # What is normalised is the sum as it is stored.
        rounded = wide.to(x.dtype)
        tl.store(sum_ptr + offset, rounded, mask=inside)
        wide = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / size + eps)
    normed = (wide * scale).to(x.dtype).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, (normed * weight).to(x.dtype), mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension of `x` [..., size]."""
    _check("rms_norm", x, weight)
    out = torch.empty_like(x)
    _launch(x, None, weight, out, None, eps)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rms_norm(x + residual)` and `x + residual`."""
    _check("add_rms_norm", x, weight)
    check("add_rms_norm: residual", residual, x.shape, (x.dtype,))
    out, total = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, weight, out, total, eps)
    return out, total


def _check(op: str, x: torch.Tensor, weight: torch.Tensor) -> None:
    check(f"{op}: x", x, [None] * x.dim())
    size = x.shape[-1]
    check(f"{op}: weight", weight, [size], (x.dtype,))
    require(0 < size <= MAX_SIZE, f"{op}: the last dimension must be 1..{MAX_SIZE}, got {size}")


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    total: torch.Tensor | None,
    eps: float,
) -> None:
    size = x.shape[-1]
    rows = x.numel() // size
    if rows == 0:
        return
    block = triton.next_power_of_2(size)
    # 16 numbers per thread: two loads of 16 bytes in flight for each tensor.
    warps = min(16, max(1, block // 512))
    _rms_norm_kernel[(rows,)](
        x, residual, weight, out, total, size, eps,
        ADD=residual is not None, BLOCK=block, num_warps=warps,
    )  # fmt: skip
