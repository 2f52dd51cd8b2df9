"""Attention whose result for a query is the same to the bit whatever is computed with it.

    out[i] = softmax(scale q[i] k) v over the keys at positions max(0, p - window + 1) .. p of the
    sequence of query i, where p is the position of query i

queries, out: [tokens, num_heads, head_dim]; layer: [num_blocks, 2, block_size, num_kv_heads,
head_dim]; all of one of float32, bfloat16 and float16; head_dim at most 256. `SplitTiles` says
which queries belong together.

A sequence's keys are cut into splits of SPLIT_KEYS, counted from its first key. A query's result is
that of its splits, each begun anew, folded one by one in their order. Prompt chunks and single
queries go through one kernel, compiled once: tiles of one size, keys in tiles that begin at the
same places. What a query does not see weighs zero and changes no bit of a sum, so neither a tile's
other queries nor splits that are left out matter. Which program computes a split does not matter
either: one takes all splits of a tile of a prompt, and folds as it goes; a single query's splits
go to a program each, and a second kernel folds what they leave, by the same operations. Multiplying
and adding are fused explicitly there, so that no compiler chooses. The grids of CUDA
graphs depend on no length: programs without a split end at once, and where splits are more than
programs, one takes all splits of a query too.
(He and Thinking Machines Lab 2025, «Defeating nondeterminism in LLM inference»; Flash-Decoding: Dao
et al. 2023.)
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.attention.attend import LOG2_E, attend
from lengthwise_kernels.gpu.attention.decode import block_dim, check_heads
from lengthwise_kernels.gpu.attention.prefill import pipeline_bytes
from lengthwise_kernels.gpu.launch import require, shared_bytes

SPLIT_KEYS: Final = 512
"""A multiple of every tile of keys. Smaller ones let fewer queries fill a GPU and are folded more
often; not yet measured on one."""

TILE_ROWS: Final = 64
"""Rows of (query, query head) in a tile, so query heads that may share a key head: what a group of
four warps multiplies at once. A single query of a few heads leaves most of them idle, which costs
no time while reading keys takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTiles:
    """Which queries a tile has, and how its splits are shared out; tensors int32 on the GPU.

    `tiles` [n, 4] are as for `PromptTiles`. Tile t is computed by the programs from
    `first_programs[t]` [n + 1] to `first_programs[t + 1]`: by one, or by one for each split of its
    only query, where `cut` says that there may be such tiles. `num_programs` may be more than the
    last of them.
    """

    tiles: torch.Tensor
    first_programs: torch.Tensor
    tables: torch.Tensor
    block_size: int
    num_programs: int
    cut: bool
    window: int | None


@triton.jit
def _tile_of(program, first_programs_ptr, num_tiles):
    """The last tile whose programs begin at or before this one."""
    tile = tl.zeros([], tl.int32)
    above = tile + num_tiles
    while above - tile > 1:
        middle = (tile + above) // 2
        if tl.load(first_programs_ptr + middle) <= program:
            tile = middle
        else:
            above = middle
    return tile


@triton.jit
def _fold(acc, peak, mass, more, more_peak, more_mass, scale):
    """Sums over some keys and over those of one split more. `scale` is of powers of 2."""
    higher = tl.maximum(peak, more_peak)
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    before = tl.exp2((peak - shift) * scale)
    added = tl.exp2((more_peak - shift) * scale)
    acc = tl.fma(acc, before[:, None], more * added[:, None])
    return acc, higher, tl.fma(mass, before, more_mass * added)


@triton.jit
def _finished(acc, mass):
    """The result; zero for rows that saw nothing."""
    return acc / tl.where(mass == 0.0, 1.0, mass)[:, None]


@triton.jit(do_not_specialize=["num_tiles"])
def _split_kernel(
    queries_ptr, layer_ptr, tiles_ptr, first_programs_ptr, tables_ptr, out_ptr, parts_ptr,
    peaks_ptr, masses_ptr, num_tiles, scale,
    WINDOW: tl.constexpr, SPLIT: tl.constexpr, NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    program, kv_head = tl.program_id(0), tl.program_id(1)
    if program >= tl.load(first_programs_ptr + num_tiles):
        return
    tile = _tile_of(program, first_programs_ptr, num_tiles)
    first_program = tl.load(first_programs_ptr + tile)
    is_cut = tl.load(first_programs_ptr + tile + 1) - first_program > 1
    fields = tiles_ptr + tile * 4
    first_query, count = tl.load(fields), tl.load(fields + 1)
    position, table = tl.load(fields + 2), tl.load(fields + 3)
    row, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    query = row // GROUP
    place = (first_query + query).to(tl.int64) * NUM_KV_HEADS + kv_head
    at = (place * GROUP + row % GROUP)[:, None] * HEAD_DIM + dim[None, :]
    real = (query < count)[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(queries_ptr + at, mask=real, other=0.0)
    # Rows without a query see what the last query sees, and are not stored.
    last_seen = position + tl.minimum(query, count - 1)
    begin, end = 0, position + count
    first_seen = row * 0
    if WINDOW > 0:
        begin = tl.maximum(position - WINDOW + 1, 0)
        first_seen = last_seen - WINDOW + 1
    split = begin // SPLIT
    splits_end = tl.cdiv(end, SPLIT)
    if is_cut:
        split += program - first_program
        splits_end = split + 1
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    for number in range(split, splits_end):
        # Tiles of keys begin at their multiples; those before the window are left out.
        first_key = tl.maximum(number * SPLIT, begin // TILE * TILE)
        part, part_peak, part_mass = attend(
            q,
            tl.zeros([BLOCK_M, BLOCK_D], tl.float32),
            tl.full([BLOCK_M], float("-inf"), tl.float32),
            tl.zeros([BLOCK_M], tl.float32),
            layer_ptr + kv_head * HEAD_DIM, tables_ptr + table,
            first_key, tl.minimum((number + 1) * SPLIT, end), first_seen, last_seen, scale,
            True, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
        )  # fmt: skip
        acc, peak, mass = _fold(acc, peak, mass, part, part_peak, part_mass, scale * LOG2_E)
    if is_cut:
        slot = (program.to(tl.int64) * NUM_KV_HEADS + kv_head) * GROUP + row
        target = parts_ptr + slot[:, None] * BLOCK_D + dim[None, :]
        tl.store(target, acc, mask=(row < GROUP)[:, None])
        tl.store(peaks_ptr + slot, peak, mask=row < GROUP)
        tl.store(masses_ptr + slot, mass, mask=row < GROUP)
    else:
        tl.store(out_ptr + at, _finished(acc, mass).to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def _fold_kernel(
    tiles_ptr, first_programs_ptr, out_ptr, parts_ptr, peaks_ptr, masses_ptr, scale,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    program = tl.load(first_programs_ptr + tile)
    programs_end = tl.load(first_programs_ptr + tile + 1)
    if programs_end - program <= 1:
        return
    row, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = row < GROUP
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    for number in range(program, programs_end):
        slot = (tl.cast(number, tl.int64) * NUM_KV_HEADS + kv_head) * GROUP + row
        at = parts_ptr + slot[:, None] * BLOCK_D + dim[None, :]
        part = tl.load(at, mask=inside[:, None], other=0.0)
        part_peak = tl.load(peaks_ptr + slot, mask=inside, other=float("-inf"))
        part_mass = tl.load(masses_ptr + slot, mask=inside, other=0.0)
        acc, peak, mass = _fold(acc, peak, mass, part, part_peak, part_mass, scale * LOG2_E)
    place = tl.load(tiles_ptr + tile * 4).to(tl.int64) * NUM_KV_HEADS + kv_head
    target = out_ptr + (place * GROUP + row)[:, None] * HEAD_DIM + dim[None, :]
    result = _finished(acc, mass).to(out_ptr.dtype.element_ty)
    tl.store(target, result, mask=inside[:, None] & (dim < HEAD_DIM)[None, :])


def split_attention(
    queries: torch.Tensor,
    layer: torch.Tensor,
    splits: SplitTiles,
    scale: float,
    out: torch.Tensor,
) -> None:
    """Attention of the queries of `splits` into their places of `out`."""
    op = "split_attention"
    num_heads, num_kv_heads, head_dim = check_heads(op, queries, layer, out)
    group = num_heads // num_kv_heads
    require(
        group <= TILE_ROWS,
        f"{op}: {group} query heads share a key head, at most {TILE_ROWS} may",
    )
    num_tiles = len(splits.tiles)
    if num_tiles == 0:
        return
    block_d = block_dim(head_dim)
    keys, warps, stages = _tile(head_dim, queries.dtype, queries.device)
    slots = (splits.num_programs if splits.cut else 0, num_kv_heads, group)
    parts = queries.new_empty((*slots, block_d), dtype=torch.float32)
    peaks, masses = parts.new_empty(slots), parts.new_empty(slots)
    heads = {"NUM_KV_HEADS": num_kv_heads, "GROUP": group, "HEAD_DIM": head_dim}
    _split_kernel[(splits.num_programs, num_kv_heads)](
        queries, layer, splits.tiles, splits.first_programs, splits.tables, out, parts, peaks,
        masses, num_tiles, scale,
        WINDOW=splits.window or 0, SPLIT=SPLIT_KEYS, PAGE=splits.block_size, BLOCK_M=TILE_ROWS,
        BLOCK_D=block_d, TILE=keys, **heads, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    if splits.cut:
        rows = triton.next_power_of_2(group)
        _fold_kernel[(num_tiles, num_kv_heads)](
            splits.tiles, splits.first_programs, out, parts, peaks, masses, scale,
            BLOCK_M=rows, BLOCK_D=block_d, **heads,
            # A thread reads 16 bytes at least.
            num_warps=max(1, min(4, rows * block_d // 128)),
        )  # fmt: skip


def _tile(head_dim: int, dtype: torch.dtype, device: torch.device) -> tuple[int, int, int]:
    """Keys per tile, warps and stages.

    Half as many keys as `prefill_block` takes: beside the sums of a split a thread keeps those of
    the splits before it, which with 64 keys of 128 numbers do not fit its 255 registers.
    """
    block_d = block_dim(head_dim)
    warps = 4 if block_d <= 128 else 8
    if dtype == torch.float32:
        return 16, warps, 1
    keys = max(32, min(128, 4096 // block_d))
    # As for prompts: with 5 the next keys are copied meanwhile, with 3 they fit smaller GPUs.
    fits = pipeline_bytes(TILE_ROWS, block_d, keys) <= shared_bytes(device)
    return keys, warps, 5 if fits else 3
