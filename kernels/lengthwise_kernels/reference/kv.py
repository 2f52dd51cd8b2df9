"""Writing keys and values of new tokens into the paged cache, and moving blocks in and out of it.

One layer of the cache is [num_blocks, 2, block_size, num_kv_heads, head_dim]. Seen as rows of
num_kv_heads * head_dim numbers, the key of slot s of block b is row 2 b block_size + s, and its
value lies block_size rows further. A cache of int8 has head_dim + 2 bytes instead (`kv8`).
"""

from dataclasses import dataclass

import torch

from lengthwise_kernels.reference.kv8 import quantise_heads
from lengthwise_kernels.reference.layers import rms_norm, rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNorms:
    """RMSNorm of each query and key head before its rotation; weights are [head_dim]."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


def kv_rows(positions: torch.Tensor, blocks: torch.Tensor, block_size: int) -> torch.Tensor:
    """Rows of keys [0] and values [1], [2, tokens], of tokens at `positions` lying in `blocks`."""
    key_rows = blocks * (2 * block_size) + positions % block_size
    return torch.stack((key_rows, key_rows + block_size))


def clear_blocks(cache: torch.Tensor, blocks: torch.Tensor) -> None:
    """Zero these blocks of all layers of `cache` [num_layers, num_blocks, ...]; none below 0.

    For blocks that a step begins and does not fill: slots that no query sees still take part in
    sums with weight zero, so a NaN that a former owner left behind there would spread.
    """
    if len(blocks):
        cache.index_fill_(1, blocks[blocks >= 0], 0)


def rotate_and_store(
    heads: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: HeadNorms | None,
    layer: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """Normalise and rotate queries and keys, write keys and values to `rows`, return the queries.

    `heads` [tokens, num_heads + 2 num_kv_heads, head_dim] has all query heads, then key heads, then
    value heads; `cos` and `sin` are [tokens, head_dim / 2]; `rows` [2, tokens] is from `kv_rows`.
    The result is [tokens, num_heads, head_dim].
    """
    num_kv_heads = layer.shape[-2]
    sizes = [heads.shape[1] - 2 * num_kv_heads, num_kv_heads]
    turning, values = heads[:, :-num_kv_heads], heads[:, -num_kv_heads:]
    if norms is not None:
        queries, keys = torch.split(turning, sizes, dim=1)
        queries = rms_norm(queries, norms.query, norms.eps)
        keys = rms_norm(keys, norms.key, norms.eps)
        turning = torch.cat((queries, keys), dim=1)
    queries, keys = torch.split(rotate(turning, cos, sin), sizes, dim=1)
    store(keys, values, layer, rows)
    return queries


def store(
    keys: torch.Tensor, values: torch.Tensor, layer: torch.Tensor, rows: torch.Tensor
) -> None:
    """Write keys and values, [tokens, num_kv_heads, head_dim] each, to `rows` of `kv_rows`."""
    stored = torch.cat((keys, values))
    if layer.dtype == torch.int8:
        stored = quantise_heads(stored)
    stored = stored.flatten(1)
    layer.view(-1, stored.shape[1]).index_copy_(0, rows.view(-1), stored)


def pack_blocks(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """The `blocks` [n] of all layers of `cache` [num_layers, num_blocks, ...], one after the other.

    The result is [num_layers, n, ...]. For some layers alone pass a slice of the cache.
    """
    return cache.index_select(1, blocks)


def unpack_blocks(packed: torch.Tensor, blocks: torch.Tensor, cache: torch.Tensor) -> None:
    """The reverse of `pack_blocks`: write `packed` to the `blocks` of `cache`, all different."""
    cache.index_copy_(1, blocks, packed)
