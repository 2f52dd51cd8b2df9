"""Low-rank products of many adapters in one batch.

    result[i, begin_p + j] += sum_r (sum_k x[i, k] A_s[r, k]) B_s[j, r], s the adapter of row i

x: [rows, in]; result: [rows, all outputs], of which projection p has some; tables as
`LowRankProduct` has them; all of one of float32, bfloat16 and float16, sums in float32.

Rows with the same adapter are computed together, 16 at a time: which they are is in two arrays on
the device (`AdapterTiles`), so that a captured graph serves any mix of adapters. One kernel takes x
to the rank, a piece of the inputs at a time, another from there to the outputs; both are bound by
the bytes of the tables, and each tile reads its adapter's. No row's result depends on another
row: where numbers are cut and in which order they are added follows from sizes of the model alone.
(After Punica's and S-LoRA's grouped products, arXiv:2310.18547, arXiv:2311.03285.)
"""

import math
from typing import Final

import numpy as np
import torch
import triton
import triton.language as tl

from lengthwise_kernels.attention_plan import PaddedShape
from lengthwise_kernels.gpu.launch import check, require
from lengthwise_kernels.low_rank import AdapterTiles, Ints, LowRankProduct, Rows
from lengthwise_kernels.staging import Arrays

TILE_ROWS: Final = 16
"""The fewest that matrix units multiply; decode steps have few rows of one adapter."""

_SPLIT: Final = 1024
"""Inputs of one program, so that a few tiles of a wide projection occupy more multiprocessors."""

_OUTPUTS: Final = 128
"""Outputs of one program."""


@triton.jit
def _down_kernel(
    x_ptr, down_ptr, adapters_ptr, rows_ptr, inner_ptr, inputs, num_places,
    COLUMNS: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    adapter = tl.load(adapters_ptr + tile)
    if adapter >= 0:
        place = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        row = tl.load(rows_ptr + place)
        column = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row, is_column = row >= 0, column < COLUMNS
        x_row = x_ptr + row.to(tl.int64)[:, None] * inputs
        table = down_ptr + adapter.to(tl.int64) * inputs * COLUMNS + column[None, :]
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        first = split * SPLIT
        for start in range(first, tl.minimum(first + SPLIT, inputs), BLOCK_K):
            number = start + tl.arange(0, BLOCK_K)
            is_number = number < inputs
            a = tl.load(
                x_row + number[None, :], mask=is_row[:, None] & is_number[None, :], other=0.0
            )
            b = tl.load(
                table + number[:, None] * COLUMNS,
                mask=is_number[:, None] & is_column[None, :],
                other=0.0,
            )
            acc = tl.dot(a, b, acc, input_precision="ieee")
        target = inner_ptr + (split * num_places + place)[:, None] * COLUMNS + column[None, :]
        tl.store(target, acc, mask=is_column[None, :])


@triton.jit
def _up_kernel(
    inner_ptr, up_ptr, adapters_ptr, rows_ptr, out_ptr, num_places, num_adapters, outputs,
    PARTS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr, ALIGNED: tl.constexpr,
    BEGIN_0: tl.constexpr, BEGIN_1: tl.constexpr, BEGIN_2: tl.constexpr,
    SIZE_0: tl.constexpr, SIZE_1: tl.constexpr, SIZE_2: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile, block = tl.program_id(0), tl.program_id(1)
    adapter = tl.load(adapters_ptr + tile)
    if adapter >= 0:
        # Which projection's outputs these are.
        first_1: tl.constexpr = (SIZE_0 + BLOCK_N - 1) // BLOCK_N
        first_2: tl.constexpr = first_1 + (SIZE_1 + BLOCK_N - 1) // BLOCK_N
        is_1, is_2 = block >= first_1, block >= first_2
        part = is_1.to(tl.int32) + is_2.to(tl.int32)
        size = tl.multiple_of(tl.where(is_2, SIZE_2, tl.where(is_1, SIZE_1, SIZE_0)), ALIGNED)
        begin = tl.multiple_of(tl.where(is_2, BEGIN_2, tl.where(is_1, BEGIN_1, BEGIN_0)), ALIGNED)
        before = tl.where(is_2, SIZE_0 + SIZE_1, tl.where(is_1, SIZE_0, 0))
        before = tl.multiple_of(before, ALIGNED).to(tl.int64)
        block -= tl.where(is_2, first_2, tl.where(is_1, first_1, 0))

        place = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        row = tl.load(rows_ptr + place)
        output = block * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row, is_output = row >= 0, output < size
        inner_row = inner_ptr + place[:, None] * (PARTS * RANK) + part * RANK
        table = up_ptr + (before * num_adapters + adapter.to(tl.int64) * size) * RANK
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in tl.static_range(0, RANK, BLOCK_K):
            number = start + tl.arange(0, BLOCK_K)
            is_number = number < RANK
            a = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
            for split in tl.static_range(SPLITS):
                piece = inner_row + split * num_places * (PARTS * RANK) + number[None, :]
                a += tl.load(piece, mask=is_number[None, :], other=0.0)
            b = tl.load(
                table + number[:, None] * size + output[None, :],
                mask=is_number[:, None] & is_output[None, :],
                other=0.0,
            )
            acc = tl.dot(a.to(b.dtype), b, acc, input_precision="ieee")
        target = out_ptr + row.to(tl.int64)[:, None] * outputs + begin + output[None, :]
        inside = is_row[:, None] & is_output[None, :]
        before_it = tl.load(target, mask=inside, other=0.0).to(tl.float32)
        tl.store(target, (before_it + acc).to(out_ptr.dtype.element_ty), mask=inside)


def add_low_rank(
    result: torch.Tensor, x: torch.Tensor, product: LowRankProduct, rows: Rows
) -> torch.Tensor:
    """To `result` [rows, all outputs], in place; other rows are not touched."""
    assert isinstance(rows, AdapterTiles)
    _check(result, x, product, rows)
    if not len(rows):
        return result
    inputs, rank, parts = product.num_inputs, product.rank, len(product.ups)
    splits, places, columns = triton.cdiv(inputs, _SPLIT), len(rows.rows), parts * rank
    inner = torch.empty((splits, places, columns), dtype=torch.float32, device=x.device)
    block = min(64, max(16, triton.next_power_of_2(columns)))
    _down_kernel[(len(rows), splits, triton.cdiv(columns, block))](
        x, product.down, rows.adapters, rows.rows, inner, inputs, places,
        COLUMNS=columns, SPLIT=_SPLIT, BLOCK_M=TILE_ROWS, BLOCK_N=block, BLOCK_K=128 // x.itemsize,
        num_warps=4, num_stages=4,
    )  # fmt: skip
    begins = [begin for begin, _ in product.ups]
    sizes = [up.shape[1] for _, up in product.ups]
    blocks = sum(triton.cdiv(size, _OUTPUTS) for size in sizes)
    padding = [0] * (3 - parts)
    (begin_0, begin_1, begin_2), (size_0, size_1, size_2) = begins + padding, sizes + padding
    _up_kernel[(len(rows), blocks)](
        inner, product.up, rows.adapters, rows.rows, result,
        places, product.num_adapters, result.shape[1],
        PARTS=parts, RANK=rank, SPLITS=splits, ALIGNED=math.gcd(16, *begins, *sizes),
        BEGIN_0=begin_0, BEGIN_1=begin_1, BEGIN_2=begin_2,
        SIZE_0=size_0, SIZE_1=size_1, SIZE_2=size_2,
        BLOCK_M=TILE_ROWS, BLOCK_N=_OUTPUTS, BLOCK_K=min(64, max(16, triton.next_power_of_2(rank))),
        num_warps=4,
    )  # fmt: skip
    return result


def lay_out_adapters(
    tokens: Ints, sampled: Ints, num_adapters: int, padded_to: PaddedShape | None = None
) -> Arrays:
    """As `AdapterTiles`. The arrays of steps that are padded alike have one shape."""
    arrays: Arrays = {}
    for name, numbers, most in (
        ("tokens", tokens, None if padded_to is None else padded_to.tokens),
        ("sampled", sampled, None if padded_to is None else padded_to.sequences),
    ):
        tiles, rows = _tiles(numbers, None if most is None else most_tiles(most, num_adapters))
        arrays = {**arrays, f"adapters.{name}.tiles": tiles, f"adapters.{name}.rows": rows}
    return arrays


def most_tiles(num_rows: int, num_adapters: int) -> int:
    """Of so many rows, however they are spread over the adapters."""
    return (num_rows + (TILE_ROWS - 1) * min(num_rows, num_adapters)) // TILE_ROWS


def _tiles(numbers: Ints, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Adapters and rows of `count` tiles; None: of as many as are needed."""
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] >= 0]
    adapters, rows_of = np.unique(numbers[order], return_counts=True)
    tiles_of = -(-rows_of // TILE_ROWS)
    needed = int(tiles_of.sum())
    tiles = np.full(needed if count is None else count, -1, dtype=np.int32)
    tiles[:needed] = np.repeat(adapters, tiles_of)
    rows = np.full(len(tiles) * TILE_ROWS, -1, dtype=np.int32)
    # An adapter's first place, and how far behind its first row a row is.
    first_places = (np.cumsum(tiles_of) - tiles_of) * TILE_ROWS
    first_rows = np.cumsum(rows_of) - rows_of
    rows[np.arange(len(order)) + np.repeat(first_places - first_rows, rows_of)] = order
    return tiles, rows


def _check(
    result: torch.Tensor, x: torch.Tensor, product: LowRankProduct, rows: AdapterTiles
) -> None:
    op, dtype = "add_low_rank", (x.dtype,)
    check(f"{op}: x", x, [None, product.num_inputs])
    check(f"{op}: result", result, [len(x), None], dtype)
    check(f"{op}: down", product.down, [None, len(product.ups) * product.rank], dtype)
    check(f"{op}: up", product.up, [None], dtype)
    check(f"{op}: tiles", rows.adapters, [None], (torch.int32,))
    check(f"{op}: rows", rows.rows, [len(rows) * TILE_ROWS], (torch.int32,))
    require(
        product.num_outputs <= result.shape[1],
        f"{op}: adapters change {product.num_outputs} outputs, the result has {result.shape[1]}",
    )
