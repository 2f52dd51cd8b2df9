"""Attention of new tokens over a paged history, for any mix of prompt chunks and decode rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from lengthwise_kernels.attention_plan import (
    AttentionBatch,
    AttentionLayout,
    AttentionPlan,
    AttentionSpec,
    PaddedShape,
    Scoring,
    StepAttention,
)
from lengthwise_kernels.reference.decode_group import DecodeGroup, DecodeRow, gather, half_blocks
from lengthwise_kernels.reference.invariant_attention import plan_invariant_attention
from lengthwise_kernels.reference.scored_attention import scored_attention

_QUERY_TILE: Final = 256
"""Queries per masked tile: bounds a mask to 256 x keys, and skips keys no query of the tile sees.
2,048 tokens over as many before them (16 heads of 64, one core) take 311 ms in tiles of 256, 376 in
tiles of 64 and 373 in one; under a window of 512 it is 81, 66 and 222 ms."""


@dataclass(frozen=True, slots=True)
class _Tile:
    """Consecutive queries of one sequence and the keys they see; `mask` None means causal."""

    queries: slice
    keys: slice
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _PromptChunk:
    halves: torch.Tensor
    tiles: tuple[_Tile, ...]


@dataclass(frozen=True, slots=True)
class _ReferencePlan:
    """`halves` number half blocks: the keys of block b are half 2 b, its values half 2 b + 1."""

    prompt_chunks: tuple[_PromptChunk, ...]
    decode_groups: tuple[DecodeGroup, ...]

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        output = torch.empty_like(queries)
        for chunk in self.prompt_chunks:
            _attend_chunk(queries, layer, chunk, scale, output)
        attend = partial(_attend_decode, layer, scale)
        for group in self.decode_groups:
            group.attend(queries, layer, output, attend)
        return output

    def attend_scored(
        self, queries: torch.Tensor, layer: torch.Tensor, scale: float, scoring: Scoring
    ) -> torch.Tensor:
        output = torch.empty_like(queries)
        for chunk in self.prompt_chunks:
            keys, values = (
                half.flatten(0, 1) for half in gather(layer, chunk.halves, queries.dtype)
            )
            for tile in chunk.tiles:
                output[tile.queries] = scored_attention(
                    queries[tile.queries].unsqueeze(0),
                    keys[tile.keys].unsqueeze(0),
                    values[tile.keys].unsqueeze(0),
                    tile.mask,
                    scale,
                    scoring,
                )[0]
        for group in self.decode_groups:
            shape = (len(group.rows), -1, layer.shape[-2], queries.shape[-1])
            keys, values = gather(layer, group.halves, queries.dtype)
            seen = group.mask == 0
            output[group.rows] = scored_attention(
                queries[group.rows].unsqueeze(1),
                keys.view(shape),
                values.view(shape),
                seen,
                scale,
                scoring,
            )[:, 0]
        return output


def plan_attention(
    batch: AttentionBatch, *, window: int | None, spec: AttentionSpec
) -> AttentionPlan:
    """Work out the attention of `batch` for layers with this sliding window (None: no window)."""
    if spec.invariant:
        return plan_invariant_attention(batch, window=window, spec=spec)
    device = spec.device
    chunks: list[_PromptChunk] = []
    groups: dict[int, list[DecodeRow]] = {}
    first_query = 0
    for length, start, ids in zip(batch.query_lengths, batch.starts, batch.block_ids, strict=True):
        first_key = 0 if window is None else max(0, start - window + 1)
        first_block = first_key // batch.block_size
        blocks = ids[first_block : -(-(start + length) // batch.block_size)]
        origin = first_block * batch.block_size
        if length == 1:
            row = DecodeRow(first_query, blocks, first_key - origin, start + 1 - origin)
            # Rows whose block counts round up to the same power of two share a padded tensor, so
            # that padding is less than half of it however mixed the lengths are.
            groups.setdefault((len(blocks) - 1).bit_length(), []).append(row)
        else:
            tiles = _tiles(first_query, length, start - origin, window, device)
            chunks.append(_PromptChunk(half_blocks([blocks], device)[:, 0], tiles))
        first_query += length
    return _ReferencePlan(
        tuple(chunks),
        tuple(
            DecodeGroup.of(
                rows,
                max(len(row.blocks) for row in rows) * batch.block_size,
                batch.block_size,
                spec.dtype,
                device,
            )
            for rows in groups.values()
        ),
    )


@dataclass(frozen=True, slots=True)
class _ReferenceForm:
    """Attention whose tensors are where they are needed already; serves one step only."""

    step: StepAttention

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> StepAttention:
        return self.step


def lay_out_attention(
    batch: AttentionBatch,
    *,
    windows: Sequence[int | None],
    sampled: Sequence[int] | None,
    spec: AttentionSpec,
    padded_to: PaddedShape | None = None,
) -> AttentionLayout:
    """Work out the attention of `batch` for layers with these sliding windows.

    `sampled` are the sequences whose last token is sampled, None: all tokens are. `padded_to` is
    for kernels that can be replayed; here a step has its own tensors and no use for it.
    """
    plans = {window: plan_attention(batch, window=window, spec=spec) for window in set(windows)}
    last = plans[windows[-1]]
    if sampled is not None:
        singles = AttentionBatch(
            query_lengths=[1] * len(sampled),
            starts=[batch.starts[row] + batch.query_lengths[row] - 1 for row in sampled],
            block_ids=[batch.block_ids[row] for row in sampled],
            block_size=batch.block_size,
        )
        last = plan_attention(singles, window=windows[-1], spec=spec)
    return AttentionLayout(form=_ReferenceForm(StepAttention(plans=plans, last=last)), arrays={})


def _attend_chunk(
    queries: torch.Tensor,
    layer: torch.Tensor,
    chunk: _PromptChunk,
    scale: float,
    output: torch.Tensor,
) -> None:
    keys, values = gather(layer, chunk.halves, queries.dtype)
    keys = keys.flatten(0, 1).transpose(0, 1)
    values = values.flatten(0, 1).transpose(0, 1)
    for tile in chunk.tiles:
        result = functional.scaled_dot_product_attention(
            queries[tile.queries].transpose(0, 1).unsqueeze(0),
            keys[:, tile.keys].unsqueeze(0),
            values[:, tile.keys].unsqueeze(0),
            attn_mask=tile.mask,
            is_causal=tile.mask is None,
            scale=scale,
            enable_gqa=True,
        )
        output[tile.queries] = result[0].transpose(0, 1)


def _attend_decode(
    layer: torch.Tensor, scale: float, queries: torch.Tensor, group: DecodeGroup
) -> torch.Tensor:
    """Of the group's own `queries`."""
    num_kv_heads, head_dim = layer.shape[-2], queries.shape[-1]
    num_rows = len(group.rows)
    keys, values = gather(layer, group.halves, queries.dtype)
    shape = (num_rows, -1, num_kv_heads, head_dim)
    # The query heads that share a key head stand in the place of query positions: no key is copied.
    result = functional.scaled_dot_product_attention(
        queries.view(num_rows, num_kv_heads, -1, head_dim),
        keys.view(shape).transpose(1, 2),
        values.view(shape).transpose(1, 2),
        attn_mask=group.mask,
        scale=scale,
    )
    return result.reshape(num_rows, -1, head_dim)


def _tiles(
    first_query: int, length: int, start: int, window: int | None, device: torch.device
) -> tuple[_Tile, ...]:
    """Cut a prompt chunk that begins at key number `start` into tiles."""
    if start == 0 and (window is None or length <= window):
        queries = slice(first_query, first_query + length)
        return (_Tile(queries, slice(0, length), None),)
    return tuple(
        _masked_tile(first_query, first, min(first + _QUERY_TILE, length), start, window, device)
        for first in range(0, length, _QUERY_TILE)
    )


def _masked_tile(
    first_query: int, first: int, end: int, start: int, window: int | None, device: torch.device
) -> _Tile:
    first_key = 0 if window is None else max(0, start + first - window + 1)
    keys = slice(first_key, start + end)
    key = torch.arange(keys.start, keys.stop, device=device)
    query = torch.arange(start + first, start + end, device=device).unsqueeze(1)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    return _Tile(slice(first_query + first, first_query + end), keys, seen)
