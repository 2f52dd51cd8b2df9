"""Matrix products in which each row has its expert's matrix, all experts in one launch.

    gathered:  out[p, j] = sum_k x[order[p] // num_chosen, k] weight[expert of p, j, k]
    scattered: out[order[p], j] = sum_k x[p, k] weight[expert of p, j, k]

x: [rows or places, in]; weight: [experts, out, in]; out: [places, out]; all of one of float32,
bfloat16 and float16; or x and weight e4m3 with float32 scales for each of their rows. Sums are
float32.

A program takes some places of one expert and 128 outputs. Which, it counts itself from where the
experts' places begin: the grid is of as many tiles as there can be, those too many end at once, and
the host need not know how rows were routed. Tiles of an expert are neighbours, so that its matrix
is read once. (Gale et al. 2022, MegaBlocks, arXiv:2211.15841.)

Tiles are of one size for all numbers of rows, and add in the order of k, so that a row is the same
to the bit whatever rows are beside it; see `invariant_linear`. An expert with one row computes 64
in a third of the time in which its weights arrive (by data sheets of an H200, not measured).
"""

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.experts.routing import MAX_EXPERTS
from lengthwise_kernels.gpu.launch import FLOATS, check, require
from lengthwise_kernels.gpu.scaled_linear import INVARIANT_ROWS
from lengthwise_kernels.reference.fp8 import E4M3, Fp8Rows
from lengthwise_kernels.reference.routing import Routes


@triton.jit(do_not_specialize_on_alignment=["begins_ptr"])
def _grouped_linear_kernel(
    x_ptr, x_scales_ptr, weight_ptr, weight_scales_ptr, order_ptr, begins_ptr, out_ptr,
    num_experts, outputs, inputs,
    GATHERS: tl.constexpr, CHOSEN: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile, number = tl.program_id(0), tl.arange(0, EXPERTS)
    begins = tl.load(begins_ptr + number, mask=number < num_experts, other=0)
    ends = tl.load(begins_ptr + number + 1, mask=number < num_experts, other=0)
    tiles = (ends - begins + BLOCK_M - 1) // BLOCK_M
    last_tiles = tl.cumsum(tiles, 0)
    expert = tl.sum((last_tiles <= tile).to(tl.int32), 0)
    if expert >= num_experts:
        return
    tile -= tl.sum(tl.where(number < expert, tiles, 0), 0)
    place = tl.load(begins_ptr + expert) + tile * BLOCK_M + tl.arange(0, BLOCK_M)
    is_place = place < tl.load(begins_ptr + expert + 1)
    slot = tl.load(order_ptr + place, mask=is_place, other=0)
    source = slot // CHOSEN if GATHERS else place
    target = place if GATHERS else slot
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_output = output < outputs
    x_row = x_ptr + source.to(tl.int64)[:, None] * inputs
    weight_ptr += expert.to(tl.int64) * outputs * inputs
    weight_row = weight_ptr + output.to(tl.int64)[None, :] * inputs
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, inputs, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(x_row + k[None, :], mask=is_place[:, None] & (k < inputs)[None, :], other=0.0)
        b = tl.load(
            weight_row + k[:, None], mask=is_output[None, :] & (k < inputs)[:, None], other=0.0
        )
        acc = tl.dot(a, b, acc, max_num_imprecise_acc=BLOCK_K, input_precision="ieee")
    if x_scales_ptr is not None:
        x_scale = tl.load(x_scales_ptr + source, mask=is_place, other=0.0)
        at = expert.to(tl.int64) * outputs + output
        weight_scale = tl.load(weight_scales_ptr + at, mask=is_output, other=0.0)
        acc = acc * x_scale[:, None] * weight_scale[None, :]
    out_row = out_ptr + target.to(tl.int64)[:, None] * outputs + output[None, :]
    inside = is_place[:, None] & is_output[None, :]
    tl.store(out_row, acc.to(out_ptr.dtype.element_ty), mask=inside)


def gathered_linear(
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`x` [rows, in] by the experts that rows take: [places, out] of `dtype`, sorted by expert."""
    outputs = _check("gathered_linear", x, weight, routes, dtype, len(routes.shares))
    out = routes.shares.new_empty((len(routes.order), outputs), dtype=dtype)
    return _multiply(x, weight, routes, out, gathers=True)


def scattered_linear(
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`x` [places, in], sorted by expert, by theirs: [places, out] by their numbers; zeros where
    other experts compute."""
    outputs = _check("scattered_linear", x, weight, routes, dtype, len(routes.order))
    shape = (len(routes.order), outputs)
    make = routes.shares.new_zeros if routes.is_part else routes.shares.new_empty
    return _multiply(x, weight, routes, make(shape, dtype=dtype), gathers=False)


def most_tiles(places: int, num_experts: int) -> int:
    """However places are shared out: each expert that has any may have one tile that is not
    full."""
    return (places + min(places, num_experts) * (INVARIANT_ROWS - 1)) // INVARIANT_ROWS


def _multiply(
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    out: torch.Tensor,
    *,
    gathers: bool,
) -> torch.Tensor:
    (numbers, x_scales), (matrices, weight_scales) = _parts(x), _parts(weight)
    (num_experts, outputs, inputs), places = matrices.shape, len(routes.order)
    if not places:
        return out
    _grouped_linear_kernel[(most_tiles(places, num_experts), triton.cdiv(outputs, 128))](
        numbers, x_scales, matrices, weight_scales, routes.order, routes.begins, out,
        num_experts, outputs, inputs,
        GATHERS=gathers, CHOSEN=routes.num_chosen, EXPERTS=triton.next_power_of_2(num_experts),
        BLOCK_M=INVARIANT_ROWS, BLOCK_N=128, BLOCK_K=128 // numbers.itemsize,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def _parts(rows: torch.Tensor | Fp8Rows) -> tuple[torch.Tensor, torch.Tensor | None]:
    return (rows.values, rows.scales) if isinstance(rows, Fp8Rows) else (rows, None)


def _check(
    op: str,
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    dtype: torch.dtype,
    num_rows: int,
) -> int:
    """Returns the number of outputs."""
    (numbers, x_scales), (matrices, weight_scales) = _parts(x), _parts(weight)
    require(dtype in FLOATS, f"{op}: the result must be one of {FLOATS}, got {dtype}")
    kind = dtype if x_scales is None else E4M3
    check(f"{op}: x", numbers, [num_rows, None], (kind,))
    check(f"{op}: weight", matrices, [None, None, numbers.shape[1]], (kind,))
    num_experts, outputs, _ = matrices.shape
    require(num_experts <= MAX_EXPERTS, f"{op}: at most {MAX_EXPERTS} experts, got {num_experts}")
    if x_scales is not None:
        check(f"{op}: x scales", x_scales, [num_rows], (torch.float32,))
    if weight_scales is not None:
        check(f"{op}: weight scales", weight_scales, [num_experts, outputs], (torch.float32,))
    require(
        (x_scales is None) == (weight_scales is None),
        f"{op}: x and weight must both be 8-bit numbers, or neither",
    )
    check(f"{op}: order", routes.order, [routes.shares.numel()], (torch.int32,))
    check(f"{op}: begins", routes.begins, [num_experts + 1], (torch.int32,))
    return outputs
