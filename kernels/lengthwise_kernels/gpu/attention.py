"""A step's attention on a GPU: prompt chunks and decode rows, each with its kernel.

The rule: planning happens on the host from lists, and one copy takes all of it to the GPU; what the
layers then launch reads nothing back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lengthwise_kernels.attention_plan import AttentionBatch, AttentionPlan, AttentionSpec
from lengthwise_kernels.gpu.decode_attention import (
    MAX_HEAD_DIM,
    DecodeRows,
    count_tiles,
    decode_attention,
)
from lengthwise_kernels.gpu.launch import FLOATS, multiprocessors, require
from lengthwise_kernels.gpu.prefill_attention import (
    MAX_GROUP,
    PromptTiles,
    cut_tiles,
    prefill_attention,
    tile_rows,
)

PROGRAMS_PER_MULTIPROCESSOR = 3
"""Decode programs that fit a multiprocessor's shared memory (`decode_attention`)."""


@dataclass(frozen=True, slots=True)
class _Plan:
    prompts: PromptTiles | None
    decode: DecodeRows | None

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        out = torch.empty_like(queries)
        if self.prompts is not None:
            prefill_attention(queries, layer, self.prompts, scale, out)
        if self.decode is not None:
            decode_attention(queries, layer, self.decode, scale, out)
        return out


def check_attention(spec: AttentionSpec) -> None:
    """Raise `UnsupportedByKernel` unless the kernels compute attention of this model."""
    group = spec.num_heads // spec.num_kv_heads
    require(
        spec.head_dim <= MAX_HEAD_DIM and group <= MAX_GROUP and spec.dtype in FLOATS,
        f"attention on a GPU needs heads of at most {MAX_HEAD_DIM} numbers, at most {MAX_GROUP}"
        f" query heads for each key head, and one of {', '.join(map(str, FLOATS))}; got heads of"
        f" {spec.head_dim}, {group} for each key head, {spec.dtype}",
    )


def plan_attention(
    batch: AttentionBatch, *, window: int | None, spec: AttentionSpec
) -> AttentionPlan:
    """Work out the attention of `batch` for layers with this sliding window (None: no window)."""
    first_query = 0
    chunks: list[tuple[int, int, int, Sequence[int]]] = []
    singles: list[tuple[int, int, Sequence[int]]] = []
    for length, start, ids in zip(batch.query_lengths, batch.starts, batch.block_ids, strict=True):
        used = ids[: -(-(start + length) // batch.block_size)]
        if length == 1:
            singles.append((first_query, start, used))
        else:
            chunks.append((first_query, length, start, used))
        first_query += length
    return _Plan(
        _prompt_tiles(chunks, window, batch.block_size, spec) if chunks else None,
        decode_rows(singles, window, batch.block_size, spec) if singles else None,
    )


def _prompt_tiles(
    chunks: Sequence[tuple[int, int, int, Sequence[int]]],
    window: int | None,
    block_size: int,
    spec: AttentionSpec,
) -> PromptTiles:
    group = spec.num_heads // spec.num_kv_heads
    rows = tile_rows(max(length for _, length, _, _ in chunks), group)
    whole = [(*chunk[:3], index) for index, chunk in enumerate(chunks)]
    tiles, tables = _to_device(
        spec.device,
        np.array(cut_tiles(whole, rows, group), dtype=np.int32),
        _tables([ids for _, _, _, ids in chunks]),
    )
    return PromptTiles(tiles=tiles, tables=tables, block_size=block_size, rows=rows, window=window)


def decode_rows(
    singles: Sequence[tuple[int, int, Sequence[int]]],
    window: int | None,
    block_size: int,
    spec: AttentionSpec,
    prefixes: Sequence[int] | None = None,
) -> DecodeRows:
    """Rows of single queries, each given as its place, its position and its sequence's blocks.

    With `prefixes` a row does not see its first so many keys.
    """
    ends = [position + 1 for _, position, _ in singles]
    begins = [0 if window is None else max(0, end - window) for end in ends]
    if prefixes is not None:
        begins = list(map(max, begins, prefixes))
    tiles = [count_tiles(*keys, spec.head_dim) for keys in zip(begins, ends, strict=True)]
    queries, first, end, first_tiles, tables = _to_device(
        spec.device,
        np.array([place for place, _, _ in singles], dtype=np.int32),
        np.array(begins, dtype=np.int32),
        np.array(ends, dtype=np.int32),
        np.cumsum([0, *tiles], dtype=np.int32),
        _tables([ids for _, _, ids in singles]),
    )
    return DecodeRows(
        queries=queries,
        begins=first,
        ends=end,
        tables=tables,
        first_tiles=first_tiles,
        block_size=block_size,
        num_programs=PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(spec.device),
    )


def _tables(blocks: Sequence[Sequence[int]]) -> "np.typing.NDArray[np.int32]":
    """Block tables of the same width; no kernel reads the rest of a shorter one."""
    tables = np.zeros((len(blocks), max(map(len, blocks))), dtype=np.int32)
    for table, ids in zip(tables, blocks, strict=True):
        table[: len(ids)] = ids
    return tables


def _to_device(
    device: torch.device, *arrays: "np.typing.NDArray[np.int32]"
) -> tuple[torch.Tensor, ...]:
    """The arrays as views of one tensor, which takes one copy that the host does not wait for.

    Each begins at a multiple of 16 bytes.
    """
    padded = [-(-array.size // 4) * 4 for array in arrays]
    flat = torch.zeros(sum(padded), dtype=torch.int32, pin_memory=device.type == "cuda")
    parts = torch.split(flat, padded)
    for part, array in zip(parts, arrays, strict=True):
        part.numpy()[: array.size] = array.ravel()
    parts = torch.split(flat.to(device, non_blocking=True), padded)
    return tuple(
        part[: array.size].view(array.shape) for part, array in zip(parts, arrays, strict=True)
    )
