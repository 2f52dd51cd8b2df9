"""The gate of a SwiGLU feed-forward layer: silu(gate) * up, with silu(g) = g / (1 + e^-g).

gate_up: [..., 2 size], gate first; the result: [..., size]; float32, bfloat16 or float16, silu in
float32 and rounded before the product, as PyTorch does. (Shazeer 2020, arXiv:2002.05202.)

Memory-bound: a program takes a piece of one row. The gate and the up half are read where the matrix
product left them, where PyTorch would take two kernels with silu(gate) in memory between them.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check, require

_BLOCK: Final = 1024
"""Eight numbers for each of 128 threads: one load of 16 bytes from either half."""


@triton.jit
def _silu_mul_kernel(gate_up_ptr, out_ptr, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up_ptr + row * 2 * size + column, mask=inside, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * size + size + column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    product = (silu * up.to(tl.float32)).to(gate.dtype)
    tl.store(out_ptr + row * size + column, product, mask=inside)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up where `gate_up` [..., 2 size] holds gate first; the result is [..., size]."""
    check("silu_mul: gate_up", gate_up, [None] * gate_up.dim())
    both = gate_up.shape[-1]
    require(
        both > 0 and both % 2 == 0,
        f"silu_mul: the last dimension holds two halves, got {both} numbers",
    )
    size = both // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], size))
    if out.numel():
        grid = (out.numel() // size, triton.cdiv(size, _BLOCK))
        _silu_mul_kernel[grid](gate_up, out, size, BLOCK=_BLOCK, num_warps=4)
    return out
