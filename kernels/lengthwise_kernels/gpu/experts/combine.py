"""What the experts of a row have computed becomes one row.

    out[i] = sum_c shares[i, c] partials[i num_chosen + c]

partials: [rows * num_chosen, size], float32, bfloat16 or float16; shares: float32 [rows,
num_chosen]; the result: [rows, size] of the type of partials, added in float32 in the order of c.

Memory-bound: a program takes a piece of one row, and reads each of its partials once.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check
from lengthwise_kernels.reference.routing import Routes

_BLOCK: Final = 1024
"""Eight numbers for each of 128 threads: one load of 16 bytes."""


@triton.jit
def _combine_kernel(
    partials_ptr, shares_ptr, out_ptr, size, CHOSEN: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(CHOSEN):
        place = row * CHOSEN + choice
        partial = tl.load(partials_ptr + place * size + column, mask=inside, other=0.0)
        total += partial.to(tl.float32) * tl.load(shares_ptr + place)
    tl.store(out_ptr + row * size + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def combine(partials: torch.Tensor, routes: Routes) -> torch.Tensor:
    """The sum of each row's `partials` [places, size], each times its share: [rows, size]."""
    check("combine: partials", partials, [len(routes.order), None])
    check("combine: shares", routes.shares, [None, routes.num_chosen], (torch.float32,))
    rows, size = len(routes.shares), partials.shape[1]
    out = partials.new_empty((rows, size))
    if out.numel():
        _combine_kernel[(rows, triton.cdiv(size, _BLOCK))](
            partials, routes.shares, out, size,
            CHOSEN=routes.num_chosen, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return out
