"""Attention of single queries over paged keys: equal shares of a ragged batch for all programs.

    out[r] = softmax(scale q[r] k) v over the keys [begin, end) of row r's own sequence

queries, out: [tokens, num_heads, head_dim], of which the rows named by `DecodeRows` are read and
written; layer: [num_blocks, 2, block_size, num_kv_heads, head_dim]; all of one of float32, bfloat16
and float16; head_dim at most 256; lse: float32 [tokens, num_heads] or None.

Memory-bound: keys and values are read once, for all query heads that share them. Each (row, key
head) is a run of tiles of TILE keys; the runs of all rows are laid end to end and cut into equal
ranges, one for each program, whatever the lengths are. A range has at most one run it only ends and
one it only begins: these parts go to the program's two slots, the runs between are finished on the
spot. A second kernel merges the parts of each run that was cut. No program waits for another, and
the grid does not depend on lengths, so that both kernels can be captured in a CUDA graph. The order
of sums depends on what else is in the batch. (LeanAttention: Sanovar et al. 2024, arXiv:2405.10480,
where the owner of a run spins until its helpers are done.)
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.attention.attend import attend, finish, merge
from lengthwise_kernels.gpu.launch import check, require

_TILE_NUMBERS: Final = 8192
"""Numbers of keys, and as many of values, in a tile: 32 KiB of both in half precision."""

_STAGES: Final = 5
"""Of which one loads block ids, and two hold tiles: one is on its way while another is used. That
is 71 KiB of shared memory, so that three programs fit a multiprocessor's 227 KiB."""

_FLOAT32_STAGES: Final = 3
"""float32 is for tests; with more stages the compiler runs out of registers."""

_MERGED_AT_ONCE: Final = 8

MAX_HEAD_DIM: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRows:
    """Which queries see which keys; all tensors int32 on the GPU.

    `queries` [rows] are places in the queries; `begins` and `ends` [rows] bound the keys seen;
    `tables` [any] has the blocks of each sequence from its first token on, beginning at
    `table_starts` [rows]; `first_tiles` [rows + 1] counts the tiles, of `tile_keys` keys, that the
    rows before touch. `num_programs` is how many shares the work is cut into.

    A row without keys (padding) reads nothing and gets zeros.
    """

    queries: torch.Tensor
    begins: torch.Tensor
    ends: torch.Tensor
    tables: torch.Tensor
    table_starts: torch.Tensor
    first_tiles: torch.Tensor
    block_size: int
    num_programs: int


def tile_keys(head_dim: int) -> int:
    """Keys per tile; for heads so small that they are only tests', no more than registers hold."""
    return min(256, _TILE_NUMBERS // block_dim(head_dim))


def block_dim(head_dim: int) -> int:
    """`head_dim` rounded up to what the matrix units take."""
    return 1 << max(4, (head_dim - 1).bit_length())


def decode_stages(dtype: torch.dtype) -> int:
    """Depth of the software pipeline."""
    return _FLOAT32_STAGES if dtype == torch.float32 else _STAGES


@triton.jit
def _share(program, tiles, programs):
    """The first tile of a program's share; shares differ by at most one tile."""
    return (program.to(tl.int64) * tiles // programs).to(tl.int32)


@triton.jit
def _owner(tile, tiles, programs):
    """The program whose share has this tile."""
    return (((tile + 1).to(tl.int64) * programs - 1) // tiles).to(tl.int32)


@triton.jit
def _row_at(tile, first_tiles_ptr, num_rows, NUM_KV_HEADS: tl.constexpr):
    """The last row that begins at or before this tile."""
    row = tl.zeros([], tl.int32)
    above = row + num_rows
    while above - row > 1:
        middle = (row + above) // 2
        if tl.load(first_tiles_ptr + middle) * NUM_KV_HEADS <= tile:
            row = middle
        else:
            above = middle
    return row


@triton.jit(do_not_specialize=["num_rows"])
def _decode_kernel(
    queries_ptr, layer_ptr, rows_ptr, begins_ptr, ends_ptr, tables_ptr, table_starts_ptr,
    first_tiles_ptr, out_ptr, lse_ptr, parts_ptr, part_lses_ptr, num_rows, scale,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tiles = tl.load(first_tiles_ptr + num_rows) * NUM_KV_HEADS
    programs = tl.minimum(tl.num_programs(0), tiles)
    if program >= programs:
        return
    share = _share(program, tiles, programs)
    share_end = _share(program + 1, tiles, programs)
    row = _row_at(share, first_tiles_ptr, num_rows, NUM_KV_HEADS)
    member, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    real = (member < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    tile = share
    while tile < share_end:
        row_tile = tl.load(first_tiles_ptr + row)
        row_end = tl.load(first_tiles_ptr + row + 1)
        if row_end * NUM_KV_HEADS <= tile:
            row += 1
        else:
            run_tiles = row_end - row_tile
            kv_head = (tile - row_tile * NUM_KV_HEADS) // run_tiles
            run = row_tile * NUM_KV_HEADS + kv_head * run_tiles
            stop = tl.minimum(share_end, run + run_tiles)
            begin, end = tl.load(begins_ptr + row), tl.load(ends_ptr + row)
            first_key = (begin // TILE + tile - run) * TILE
            last_key = tl.minimum(end, (begin // TILE + stop - run) * TILE)
            place = tl.load(rows_ptr + row).to(tl.int64) * NUM_KV_HEADS + kv_head
            at = (place * GROUP + member)[:, None] * HEAD_DIM + dim[None, :]
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
            if (tile == run) & (stop == run + run_tiles):
                tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=real)
                if lse_ptr is not None:
                    tl.store(lse_ptr + place * GROUP + member, lse, mask=member < GROUP)
            else:
                slot = 2 * program + tl.where(tile > share, 1, 0)
                part = slot.to(tl.int64) * BLOCK_M + member
                tl.store(parts_ptr + part[:, None] * BLOCK_D + dim[None, :], out)
                tl.store(part_lses_ptr + part, lse)
            tile = stop


@triton.jit(do_not_specialize=["num_rows", "shares"])
def _merge_kernel(
    rows_ptr, first_tiles_ptr, out_ptr, lse_ptr, parts_ptr, part_lses_ptr, num_rows, shares,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    tiles = tl.load(first_tiles_ptr + num_rows) * NUM_KV_HEADS
    row_tile, row_end = tl.load(first_tiles_ptr + row), tl.load(first_tiles_ptr + row + 1)
    run_tiles = row_end - row_tile
    programs = tl.maximum(tl.minimum(shares, tiles), 1)
    run = row_tile * NUM_KV_HEADS + head // GROUP * run_tiles
    owner = _owner(run, tl.maximum(tiles, 1), programs)
    last = _owner(run + run_tiles - 1, tl.maximum(tiles, 1), programs)
    count = tl.where(run_tiles > 0, last - owner + 1, 0)
    if count == 1:
        return
    first = 2 * owner
    nudge = tl.where(_share(owner, tiles, programs) < run, 1, 0)
    out, lse = merge(
        parts_ptr, part_lses_ptr, first, 2, nudge, count, head % GROUP, BLOCK_M, BLOCK_D, CHUNK
    )
    place = tl.load(rows_ptr + row).to(tl.int64) * NUM_KV_HEADS * GROUP + head
    dim = tl.arange(0, BLOCK_D)
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + place * HEAD_DIM + dim, out.to(kind), mask=dim < HEAD_DIM)
    if lse_ptr is not None:
        tl.store(lse_ptr + place, lse)


def decode_attention(
    queries: torch.Tensor,
    layer: torch.Tensor,
    rows: DecodeRows,
    scale: float,
    out: torch.Tensor,
    lse: torch.Tensor | None = None,
) -> None:
    """Attention of `rows` into their places of `out`, and its log-sum-exp into those of `lse`.

    A row without keys gets zeros and -inf. `out` may be float32 whatever the queries are.
    """
    num_heads, num_kv_heads, head_dim = check_heads("decode_attention", queries, layer, out, lse)
    num_rows = len(rows.queries)
    if num_rows == 0:
        return
    group = num_heads // num_kv_heads
    shape = {"BLOCK_M": max(16, triton.next_power_of_2(group)), "BLOCK_D": block_dim(head_dim)}
    heads = {"NUM_KV_HEADS": num_kv_heads, "GROUP": group, "HEAD_DIM": head_dim}
    part_lses = queries.new_empty((2 * rows.num_programs, shape["BLOCK_M"]), dtype=torch.float32)
    parts = queries.new_empty((*part_lses.shape, shape["BLOCK_D"]), dtype=torch.float32)
    _decode_kernel[(rows.num_programs,)](
        queries, layer, rows.queries, rows.begins, rows.ends, rows.tables, rows.table_starts,
        rows.first_tiles, out, lse, parts, part_lses, num_rows, scale,
        PAGE=rows.block_size, TILE=tile_keys(head_dim), **shape, **heads,
        num_warps=4, num_stages=decode_stages(queries.dtype),
    )  # fmt: skip
    _merge_kernel[(num_rows, num_heads)](
        rows.queries, rows.first_tiles, out, lse, parts, part_lses, num_rows, rows.num_programs,
        CHUNK=_MERGED_AT_ONCE, **shape, **heads, num_warps=1,
    )  # fmt: skip


def check_heads(
    op: str,
    queries: torch.Tensor,
    layer: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None = None,
) -> tuple[int, int, int]:
    """(num_heads, num_kv_heads, head_dim) of tensors that fit each other."""
    check(f"{op}: queries", queries, [None, None, None])
    _, num_heads, head_dim = queries.shape
    check(f"{op}: layer", layer, [None, 2, None, None, head_dim], (queries.dtype,))
    num_kv_heads = layer.shape[3]
    require(
        head_dim <= MAX_HEAD_DIM and num_kv_heads > 0 and num_heads % num_kv_heads == 0,
        f"{op}: needs head_dim of at most {MAX_HEAD_DIM} and a multiple of the key heads as query"
        f" heads, got head_dim {head_dim}, {num_heads} query heads, {num_kv_heads} key heads",
    )
    check(f"{op}: out", out, queries.shape, (queries.dtype, torch.float32))
    if lse is not None:
        check(f"{op}: lse", lse, queries.shape[:2], (torch.float32,))
    return num_heads, num_kv_heads, head_dim
