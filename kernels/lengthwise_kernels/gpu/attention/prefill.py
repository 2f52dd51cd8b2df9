"""Causal attention of prompt chunks over their own keys and a paged history.

    out[i] = softmax(scale q[i] k) v over the keys at positions max(0, p - window + 1) .. p of the
    sequence of query i, where p is the position of query i

queries, out: [tokens, num_heads, head_dim], chunks of all sequences one after the other; layer:
[num_blocks, 2, block_size, num_kv_heads, head_dim]; all of one of float32, bfloat16 and float16;
head_dim at most 256. `PromptTiles` says which queries belong together.

Compute-bound. A program takes a tile of queries and runs over the keys they see; the query heads
that share a key head lie in one tile, so that a short chunk after a long history fills it too. Keys
that every query of the tile sees are not masked; those beyond the last query's are not read. Tiles
with the most keys come first, so that none of them begins when the others have ended; programs of
one key head are neighbours and find each other's keys in the L2 cache.
(FlashAttention-2: Dao 2023, arXiv:2307.08691.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.attention.attend import attend, finish
from lengthwise_kernels.gpu.attention.decode import block_dim, check_heads
from lengthwise_kernels.gpu.launch import require, shared_bytes

_SMALL_ROWS: Final = 64
_LARGE_ROWS: Final = 128
"""Rows of a tile: what one and two groups of four warps take to a matrix unit."""

_STAGES: Final = 5
"""Of the software pipeline. Block ids are one level of it and keys another, and each level gets
half of the stages but one: with 3 the compiler waits for every copy as soon as it is issued, with 5
a tile of keys and values is on its way while another is used."""

_UNPIPELINED: Final = 3
"""For GPUs with half the shared memory of Hopper's (compute capability 8.6 and 8.9)."""

MAX_GROUP: Final = _LARGE_ROWS
"""Query heads that share a key head: they lie in one tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTiles:
    """Which queries a program computes; tensors int32 on the GPU.

    `tiles` [n, 4] are the first query's place, how many queries, the first query's position, and
    where in `tables` [any] the sequence's blocks begin. `rows` is the number of (query, head) rows
    of a tile. A tile without queries (padding) reads and writes nothing.
    """

    tiles: torch.Tensor
    tables: torch.Tensor
    block_size: int
    rows: int
    window: int | None


def tile_rows(longest: int, group: int) -> int:
    """Rows of the tiles of a step whose longest chunk has `longest` queries."""
    return _SMALL_ROWS if longest * group <= _SMALL_ROWS else _LARGE_ROWS


def cut_tiles(
    chunks: Sequence[tuple[int, int, int, int]], rows: int, group: int
) -> list[tuple[int, int, int, int]]:
    """`PromptTiles.tiles` of chunks given as one tile each, the longest run of keys first."""
    size = rows // group
    tiles = [
        (first + offset, min(size, count - offset), position + offset, table)
        for first, count, position, table in chunks
        for offset in range(0, count, size)
    ]
    return sorted(tiles, key=lambda tile: -(tile[2] + tile[1]))


@triton.jit
def _prefill_kernel(
    queries_ptr, layer_ptr, tiles_ptr, tables_ptr, out_ptr, scale,
    WINDOW: tl.constexpr, NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    fields, kv_head = tiles_ptr + tl.program_id(0) * 4, tl.program_id(1)
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
    end = position + count
    # Keys [0, everyone_end) are before every query, keys [everyone, end) in every query's window.
    everyone_end = (position + 1) // TILE * TILE
    begin, everyone = 0, 0
    if WINDOW > 0:
        begin = tl.maximum(position - WINDOW + 1, 0) // TILE * TILE
        everyone = tl.cdiv(tl.maximum(end - WINDOW, 0), TILE) * TILE
        everyone = tl.maximum(begin, tl.minimum(everyone, everyone_end))
        first_seen = last_seen - WINDOW + 1
    else:
        first_seen = row * 0
    everyone_end = tl.maximum(everyone, everyone_end)
    keys_ptr = layer_ptr + kv_head * HEAD_DIM
    table_ptr = tables_ptr + table
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    if WINDOW > 0:
        acc, peak, mass = attend(
            q, acc, peak, mass, keys_ptr, table_ptr, begin, everyone, first_seen, last_seen, scale,
            True, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
        )  # fmt: skip
    acc, peak, mass = attend(
        q, acc, peak, mass, keys_ptr, table_ptr, everyone, everyone_end, first_seen, last_seen,
        scale, False, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
    )  # fmt: skip
    acc, peak, mass = attend(
        q, acc, peak, mass, keys_ptr, table_ptr, everyone_end, end, first_seen, last_seen, scale,
        True, PAGE, NUM_KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_D, TILE,
    )  # fmt: skip
    out, _ = finish(acc, peak, mass, scale)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=real)


def prefill_attention(
    queries: torch.Tensor,
    layer: torch.Tensor,
    prompts: PromptTiles,
    scale: float,
    out: torch.Tensor,
) -> None:
    """Attention of the queries of `prompts` into their places of `out`."""
    op = "prefill_attention"
    num_heads, num_kv_heads, head_dim = check_heads(op, queries, layer, out)
    group = num_heads // num_kv_heads
    require(
        group <= prompts.rows,
        f"{op}: {group} query heads share a key head, at most {prompts.rows} may",
    )
    if len(prompts.tiles) == 0:
        return
    keys, warps, stages = prefill_block(head_dim, queries.dtype, prompts.rows, queries.device)
    _prefill_kernel[(len(prompts.tiles), num_kv_heads)](
        queries, layer, prompts.tiles, prompts.tables, out, scale,
        WINDOW=prompts.window or 0, NUM_KV_HEADS=num_kv_heads, GROUP=group, HEAD_DIM=head_dim,
        PAGE=prompts.block_size, BLOCK_M=prompts.rows, BLOCK_D=block_dim(head_dim), TILE=keys,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip


def prefill_block(
    head_dim: int, dtype: torch.dtype, rows: int, device: torch.device
) -> tuple[int, int, int]:
    """Keys per tile, warps and stages.

    The largest tiles whose scores and results fit the 255 registers of a thread on Hopper, of those
    whose pipeline fits the device's shared memory; `docs/gpu.md` has what each takes. float32 has
    no matrix unit: it is for tests.
    """
    dim = block_dim(head_dim)
    warps = 4 if rows <= _SMALL_ROWS and head_dim <= 128 else 8
    if dtype == torch.float32:
        return 16, warps, 1
    fewer = max(32, min(128, 8192 // dim))
    most = 128 if rows > _SMALL_ROWS and dim <= 128 else fewer
    for keys in (most, fewer):
        if pipeline_bytes(rows, dim, keys) <= shared_bytes(device):
            return keys, warps, _STAGES
    return fewer, warps, _UNPIPELINED


def pipeline_bytes(rows: int, dim: int, keys: int) -> int:
    """Shared memory of a program: queries, three tiles of keys and values, and block ids."""
    return 2 * dim * (rows + 3 * 2 * keys) + 1024
