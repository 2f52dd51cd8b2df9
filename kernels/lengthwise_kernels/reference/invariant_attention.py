"""Attention whose result for a token is the same to the bit whatever is computed with it.

PyTorch's attention on CPUs reduces over 512 keys at a time, in matrix products of up to 256
queries. A token's result then varies with three things, which are held still here: where the splits
of 512 keys begin (at multiples of 512 of the sequence, also under a window), how long the last one
is (a product over 200 keys adds in another order than one over 384, hidden keys or not), and
products of one, two or three queries, which have kernels of their own. Keys that a mask hides and
queries that nobody reads fill both up; they add zeros. Whether it holds on a machine is tried when
a model is loaded.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from lengthwise_kernels.attention_plan import AttentionBatch, AttentionPlan, AttentionSpec
from lengthwise_kernels.reference.decode_group import (
    DecodeGroup,
    DecodeRow,
    filled,
    gather,
    half_blocks,
)

SPLIT_KEYS: Final = 512
"""What PyTorch 2.13 reduces over at a time."""

_SHORT_KEYS: Final = 192
_LAST_SPLITS: Final = (384, SPLIT_KEYS)
"""Last splits of up to 192 keys, in steps of 16, and those of 384 add in the order of whole ones:
the libraries beneath cut sums of up to 192 numbers, and of 384 and more, alike."""
_KEY_STEP: Final = 16

_QUERY_STEP: Final = 4
_QUERY_TILE: Final = 256


def padded_keys(num_keys: int) -> int:
    """How many keys, from the first of a split on, stand in for the first `num_keys`."""
    whole, rest = divmod(num_keys, SPLIT_KEYS)
    if 0 < rest <= _SHORT_KEYS:
        rest = -(-rest // _KEY_STEP) * _KEY_STEP
    elif rest:
        rest = next(size for size in _LAST_SPLITS if size >= rest)
    return whole * SPLIT_KEYS + rest


@dataclass(frozen=True, slots=True)
class _FilledTile:
    """Consecutive queries of one sequence, the keys they see and which of these; the mask has rows
    for queries of padding too."""

    queries: slice
    keys: slice
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Chunk:
    halves: torch.Tensor
    tiles: tuple[_FilledTile, ...]


@dataclass(frozen=True, slots=True)
class _InvariantPlan:
    """`halves` number half blocks: the keys of block b are half 2 b, its values half 2 b + 1."""

    chunks: tuple[_Chunk, ...]
    groups: tuple[DecodeGroup, ...]

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        output = torch.empty_like(queries)
        for chunk in self.chunks:
            keys, values = (
                x.flatten(0, 1).transpose(0, 1) for x in gather(layer, chunk.halves, queries.dtype)
            )
            for tile in chunk.tiles:
                _attend_tile(queries, keys, values, tile, scale, output)
        attend = partial(_attend_group, layer, scale)
        for group in self.groups:
            group.attend(queries, layer, output, attend)
        return output


def plan_invariant_attention(
    batch: AttentionBatch, *, window: int | None, spec: AttentionSpec
) -> AttentionPlan:
    """As `plan_attention`."""
    size = batch.block_size
    chunks: list[_Chunk] = []
    groups: dict[int, list[DecodeRow]] = {}
    first_query = 0
    for length, start, ids in zip(batch.query_lengths, batch.starts, batch.block_ids, strict=True):
        first_key = 0 if window is None else max(0, start - window + 1)
        origin = first_key - first_key % math.lcm(SPLIT_KEYS, size)
        blocks = ids[origin // size : -(-(start + length) // size)]
        if length == 1:
            row = DecodeRow(first_query, blocks, first_key - origin, start + 1 - origin)
            # Padding is less than half of a group, however mixed the lengths are.
            groups.setdefault((padded_keys(row.end) - 1).bit_length(), []).append(row)
        else:
            tiles = tuple(
                _tile(first_query, first, min(first + _QUERY_TILE, length), start - origin, window)
                for first in range(0, length, _QUERY_TILE)
            )
            table = filled(blocks, -(-tiles[-1].keys.stop // size))
            chunks.append(_Chunk(half_blocks([table], spec.device)[:, 0], tiles))
        first_query += length
    return _InvariantPlan(
        tuple(chunks),
        tuple(
            DecodeGroup.of(
                rows, max(padded_keys(row.end) for row in rows), size, spec.dtype, spec.device
            )
            for rows in groups.values()
        ),
    )


def _attend_tile(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tile: _FilledTile,
    scale: float,
    output: torch.Tensor,
) -> None:
    own = queries[tile.queries]
    count = len(own)
    if len(tile.mask) > count:
        own = torch.cat((own, own[-1:].expand(len(tile.mask) - count, -1, -1)))
    result = functional.scaled_dot_product_attention(
        own.transpose(0, 1).unsqueeze(0),
        keys[:, tile.keys].unsqueeze(0),
        values[:, tile.keys].unsqueeze(0),
        attn_mask=tile.mask,
        scale=scale,
        enable_gqa=True,
    )
    output[tile.queries] = result[0, :, :count].transpose(0, 1)


def _attend_group(
    layer: torch.Tensor, scale: float, queries: torch.Tensor, group: DecodeGroup
) -> torch.Tensor:
    """Of the group's own `queries`."""
    num_kv_heads, head_dim = layer.shape[-2], queries.shape[-1]
    num_rows, num_keys = len(group.rows), group.mask.shape[-1]
    keys, values = (
        x.view(num_rows, -1, num_kv_heads, head_dim)[:, :num_keys].transpose(1, 2)
        for x in gather(layer, group.halves, queries.dtype)
    )
    # The query heads that share a key head stand in the place of query positions: no key is copied.
    own = queries.view(num_rows, num_kv_heads, -1, head_dim)
    sharing = own.shape[2]
    own = functional.pad(own, (0, 0, 0, -sharing % _QUERY_STEP))
    result = functional.scaled_dot_product_attention(
        own, keys, values, attn_mask=group.mask, scale=scale
    )
    return result[:, :, :sharing].reshape(num_rows, -1, head_dim)


def _tile(first_query: int, first: int, end: int, start: int, window: int | None) -> _FilledTile:
    """The queries [first, end) of a chunk that begins at key number `start`."""
    first_key = 0 if window is None else max(0, start + first - window + 1)
    first_key -= first_key % SPLIT_KEYS
    keys = slice(first_key, first_key + padded_keys(start + end - first_key))
    key = torch.arange(keys.start, keys.stop)
    rows = -(-(end - first) // _QUERY_STEP) * _QUERY_STEP
    query = (start + torch.arange(first, first + rows)).clamp(max=start + end - 1).unsqueeze(1)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    return _FilledTile(slice(first_query + first, first_query + end), keys, seen)
