"""Decode attention with a fixed number of parts for every row: what `decode_attention` is measured
against.

The same operation, tensors and errors as `decode_attention`. A program takes one part of one (row,
key head); a second kernel merges the parts. The longest row decides how long the kernel takes, and
short rows pay for parts they do not need. (FlashDecoding: Dao et al. 2023,
pytorch.org/blog/flash-decoding.)
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.attention.attend import attend, finish, merge
from lengthwise_kernels.gpu.attention.decode import (
    DecodeRows,
    block_dim,
    check_heads,
    decode_stages,
    tile_keys,
)
from lengthwise_kernels.gpu.launch import require

_MERGED_AT_ONCE: Final = 8


@triton.jit
def _split_kernel(
    queries_ptr,
    layer_ptr,
    rows_ptr,
    begins_ptr,
    ends_ptr,
    tables_ptr,
    table_starts_ptr,
    parts_ptr,
    part_lses_ptr,
    scale,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(begins_ptr + row), tl.load(ends_ptr + row)
    first_tile = begin // TILE
    share = tl.cdiv(tl.cdiv(end, TILE) - first_tile, tl.num_programs(2))
    first_key = (first_tile + split * share) * TILE
    last_key = tl.minimum(end, first_key + share * TILE)
    member, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    place = tl.load(rows_ptr + row).to(tl.int64) * NUM_KV_HEADS + kv_head
    at = (place * GROUP + member)[:, None] * HEAD_DIM + dim[None, :]
    real = (member < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(queries_ptr + at, mask=real, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    acc, peak, mass = attend(
        q, acc, peak, mass,
        layer_ptr + kv_head * HEAD_DIM,
        tables_ptr + tl.load(table_starts_ptr + row),
        first_key, last_key, begin + member * 0, end - 1 + member * 0, scale,
        True, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
    )  # fmt: skip
    out, lse = finish(acc, peak, mass, scale)
    slot = (row.to(tl.int64) * NUM_KV_HEADS + kv_head) * tl.num_programs(2) + split
    part = slot * BLOCK_M + member
    tl.store(parts_ptr + part[:, None] * BLOCK_D + dim[None, :], out)
    tl.store(part_lses_ptr + part, lse)


@triton.jit(do_not_specialize=["splits"])
def _merge_split_kernel(
    rows_ptr,
    out_ptr,
    lse_ptr,
    parts_ptr,
    part_lses_ptr,
    splits,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    first = (row * NUM_KV_HEADS + head // GROUP) * splits
    out, lse = merge(
        parts_ptr, part_lses_ptr, first, 1, 0, splits, head % GROUP, BLOCK_M, BLOCK_D, CHUNK
    )
    place = tl.load(rows_ptr + row).to(tl.int64) * NUM_KV_HEADS * GROUP + head
    dim = tl.arange(0, BLOCK_D)
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + place * HEAD_DIM + dim, out.to(kind), mask=dim < HEAD_DIM)
    if lse_ptr is not None:
        tl.store(lse_ptr + place, lse)


def split_decode_attention(
    queries: torch.Tensor,
    layer: torch.Tensor,
    rows: DecodeRows,
    scale: float,
    out: torch.Tensor,
    lse: torch.Tensor | None = None,
    *,
    splits: int,
) -> None:
    """`decode_attention` with every row cut into `splits` parts."""
    op = "split_decode_attention"
    num_heads, num_kv_heads, head_dim = check_heads(op, queries, layer, out, lse)
    require(1 <= splits <= 65_535, f"{op}: splits must be 1..65535, got {splits}")
    num_rows = len(rows.queries)
    if num_rows == 0:
        return
    group = num_heads // num_kv_heads
    shape = {"BLOCK_M": max(16, triton.next_power_of_2(group)), "BLOCK_D": block_dim(head_dim)}
    heads = {"NUM_KV_HEADS": num_kv_heads, "GROUP": group, "HEAD_DIM": head_dim}
    slots = num_rows * num_kv_heads * splits
    part_lses = queries.new_empty((slots, shape["BLOCK_M"]), dtype=torch.float32)
    parts = queries.new_empty((*part_lses.shape, shape["BLOCK_D"]), dtype=torch.float32)
    _split_kernel[(num_rows, num_kv_heads, splits)](
        queries, layer, rows.queries, rows.begins, rows.ends, rows.tables, rows.table_starts,
        parts, part_lses, scale,
        PAGE=rows.block_size, TILE=tile_keys(head_dim), **shape, **heads,
        num_warps=4, num_stages=decode_stages(queries.dtype),
    )  # fmt: skip
    _merge_split_kernel[(num_rows, num_heads)](
        rows.queries, out, lse, parts, part_lses, splits,
        CHUNK=_MERGED_AT_ONCE, **shape, **heads, num_warps=1,
    )  # fmt: skip
