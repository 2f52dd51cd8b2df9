"""Writing keys and values of new tokens into the paged cache.

One layer of the cache is [num_blocks, 2, block_size, num_kv_heads, head_dim]. Seen as rows of
num_kv_heads * head_dim numbers, the key of slot s of block b is row 2 b block_size + s, and its
value lies block_size rows further.
"""

import torch


def kv_rows(positions: torch.Tensor, blocks: torch.Tensor, block_size: int) -> torch.Tensor:
    """Rows of keys [0] and values [1], [2, tokens], of tokens at `positions` lying in `blocks`."""
    key_rows = blocks * (2 * block_size) + positions % block_size
    return torch.stack((key_rows, key_rows + block_size))


def store_kv(
    layer: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: torch.Tensor,
    begun: torch.Tensor,
) -> None:
    """Write `keys` and `values`, [tokens, num_kv_heads, head_dim], to `rows` (from `kv_rows`).

    The blocks `begun` are cleared first. Masked slots still take part in sums with weight zero, so
    a NaN that a former owner left behind them would spread.
    """
    if len(begun):
        layer.index_fill_(0, begun, 0.0)
    width = layer.shape[-2] * layer.shape[-1]
    flat = layer.view(-1, width)
    flat.index_copy_(0, rows[0], keys.reshape(-1, width))
    flat.index_copy_(0, rows[1], values.reshape(-1, width))
