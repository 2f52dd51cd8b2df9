"""Decode attention of sequences whose first blocks are the same: the common keys are read once.

    out = sum_i out_i e^(lse_i - m) / sum_i e^(lse_i - m),  m = max_i lse_i

over the parts: shares of the common prefix, seen by all rows of a group at once, and each row's own
rest, which `decode_attention` computes. Tensors as in `decode_attention`; `PrefixGroups` says who
shares what. Exact but for the order of sums.

For the prefix, the rows of a group that use the same key head make one matrix of queries, so that
keys are read once for up to 64 rows rather than once for each, and the matrix units have work. The
rest is ragged and short. Two kernels more than plain decode: worth it for large groups.
(Hydragen: Juravsky et al. 2024, arXiv:2402.05099.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.attention.attend import attend, finish, merge
from lengthwise_kernels.gpu.attention.decode import (
    DecodeRows,
    block_dim,
    check_heads,
    decode_attention,
)
from lengthwise_kernels.gpu.attention.prefill import prefill_block
from lengthwise_kernels.gpu.launch import require

_TILE_ROWS: Final = 64
"""Rows of (sequence, query head) in a tile: one group of four warps."""

MAX_GROUP: Final = _TILE_ROWS
"""Query heads that share a key head: they lie in one tile."""

_MERGED_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroups:
    """Which decode rows share their first keys; tensors int32 on the GPU.

    `tiles` [n, 4] are the first of a tile's entries in `rests.queries`, how many, the number of
    keys in the prefix, and where in `rests.tables` the prefix's blocks begin. `rests` are all rows
    with their keys after the prefix. `splits` is how many shares a prefix is cut into.

    Rows that share nothing are in tiles without keys; a tile without rows is padding.
    """

    tiles: torch.Tensor
    rests: DecodeRows
    splits: int


def cut_groups(
    groups: Sequence[tuple[int, int, int, int]], group: int
) -> list[tuple[int, int, int, int]]:
    """`PrefixGroups.tiles` of groups given as one tile each, for `group` heads per key head."""
    size = _TILE_ROWS // group
    return [
        (first + offset, min(size, count - offset), keys, table)
        for first, count, keys, table in groups
        for offset in range(0, count, size)
    ]


def group_tiles(rows: int, group: int) -> int:
    """Tiles of one group of `rows` rows; every further group may add one."""
    return -(-rows // (_TILE_ROWS // group))


@triton.jit
def _prefix_kernel(
    queries_ptr, layer_ptr, rows_ptr, tiles_ptr, tables_ptr, parts_ptr, part_lses_ptr, scale,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    fields, kv_head, split = tiles_ptr + tl.program_id(0) * 4, tl.program_id(1), tl.program_id(2)
    first, count = tl.load(fields), tl.load(fields + 1)
    keys, table = tl.load(fields + 2), tl.load(fields + 3)
    member, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = member // GROUP < count
    row = tl.load(rows_ptr + first + member // GROUP, mask=inside, other=0).to(tl.int64)
    at = (row * NUM_KV_HEADS + kv_head) * GROUP + member % GROUP
    real = inside[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(queries_ptr + at[:, None] * HEAD_DIM + dim[None, :], mask=real, other=0.0)
    share = tl.cdiv(tl.cdiv(keys, TILE), tl.num_programs(2)) * TILE
    begin = tl.minimum(keys, split * share)
    end = tl.minimum(keys, begin + share)
    whole = begin + (end - begin) // TILE * TILE
    keys_ptr = layer_ptr + kv_head * HEAD_DIM
    table_ptr = tables_ptr + table
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    acc, peak, mass = attend(
        q, acc, peak, mass, keys_ptr, table_ptr, begin, whole, member * 0, member * 0, scale,
        False, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
    )  # fmt: skip
    acc, peak, mass = attend(
        q, acc, peak, mass, keys_ptr, table_ptr, whole, end, member * 0, keys - 1 + member * 0,
        scale, True, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
    )  # fmt: skip
    out, lse = finish(acc, peak, mass, scale)
    # A slot for each part of each result, so that the parts of a result are neighbours.
    entry = (first + member // GROUP).to(tl.int64)
    slot = (entry * NUM_KV_HEADS + kv_head) * GROUP + member % GROUP
    slot = slot * tl.num_programs(2) + split
    tl.store(parts_ptr + slot[:, None] * BLOCK_D + dim[None, :], out, mask=inside[:, None])
    tl.store(part_lses_ptr + slot, lse, mask=inside)


@triton.jit(do_not_specialize=["splits"])
def _join_kernel(
    rows_ptr, rests_ptr, rest_lses_ptr, out_ptr, parts_ptr, part_lses_ptr, splits,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    entry, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = (entry * NUM_HEADS + head) * splits
    prefix, prefix_lse = merge(parts_ptr, part_lses_ptr, first, 1, 0, splits, 0, 1, BLOCK_D, CHUNK)
    place = tl.load(rows_ptr + entry).to(tl.int64) * NUM_HEADS + head
    dim = tl.arange(0, BLOCK_D)
    rest = tl.load(rests_ptr + place * HEAD_DIM + dim, mask=dim < HEAD_DIM, other=0.0)
    rest_lse = tl.load(rest_lses_ptr + place)
    peak = tl.maximum(rest_lse, prefix_lse)
    # Padding has seen no key at all.
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    rest_weight, prefix_weight = tl.exp(rest_lse - peak), tl.exp(prefix_lse - peak)
    mass = tl.maximum(rest_weight + prefix_weight, 1e-30)
    out = (rest * rest_weight + prefix * prefix_weight) / mass
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + place * HEAD_DIM + dim, out.to(kind), mask=dim < HEAD_DIM)


def shared_prefix_attention(
    queries: torch.Tensor,
    layer: torch.Tensor,
    groups: PrefixGroups,
    scale: float,
    out: torch.Tensor,
) -> None:
    """Attention of all rows of `groups` into their places of `out`; each row is in one group."""
    op = "shared_prefix_attention"
    num_heads, num_kv_heads, head_dim = check_heads(op, queries, layer, out)
    group = num_heads // num_kv_heads
    require(
        1 <= groups.splits <= 65_535 and group <= _TILE_ROWS,
        f"{op}: needs 1..65535 splits and at most {_TILE_ROWS} query heads per key head, got"
        f" {groups.splits} and {group}",
    )
    rests = groups.rests
    if len(rests.queries) == 0:
        return
    block_d = block_dim(head_dim)
    rest = torch.empty_like(queries, dtype=torch.float32)
    rest_lses = rest.new_empty(queries.shape[:2])
    decode_attention(queries, layer, rests, scale, rest, rest_lses)
    part_lses = rest.new_empty((len(rests.queries), num_heads, groups.splits))
    parts = rest.new_empty((*part_lses.shape, block_d))
    keys, warps, stages = prefill_block(head_dim, queries.dtype, _TILE_ROWS, queries.device)
    _prefix_kernel[(len(groups.tiles), num_kv_heads, groups.splits)](
        queries, layer, rests.queries, groups.tiles, rests.tables, parts, part_lses, scale,
        NUM_KV_HEADS=num_kv_heads, GROUP=group, HEAD_DIM=head_dim, PAGE=rests.block_size,
        BLOCK_M=_TILE_ROWS, BLOCK_D=block_d, TILE=keys, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    _join_kernel[(len(rests.queries), num_heads)](
        rests.queries, rest, rest_lses, out, parts, part_lses, groups.splits,
        NUM_HEADS=num_heads, HEAD_DIM=head_dim, BLOCK_D=block_d, CHUNK=_MERGED_AT_ONCE,
        num_warps=1,
    )  # fmt: skip
