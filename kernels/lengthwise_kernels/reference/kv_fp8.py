"""Blocks of the paged cache in 8-bit floating point, as they may cross a slow wire.

A block carries its scales and can be packed and unpacked alone.
"""

import torch

from lengthwise_kernels.reference.fp8 import E4M3, E4M3_MAX, SMALLEST_PEAK


def pack_blocks_fp8(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """`pack_blocks` in 8-bit floating point: uint8 [num_layers, n, bytes of a block].

    `cache` is [num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]. A block is its
    numbers, e4m3, in the cache's order, and then float32 [2, num_kv_heads]: a scale for the keys
    and one for the values of each head, max |number| / 448.
    """
    chosen = cache.index_select(1, blocks).float()
    peaks = chosen.abs().amax((3, 5)).clamp(min=SMALLEST_PEAK)
    scales = peaks / E4M3_MAX
    values = (chosen * scales.reciprocal()[:, :, :, None, :, None]).to(E4M3)
    parts = (values.flatten(2).view(torch.uint8), scales.flatten(2).view(torch.uint8))
    return torch.cat(parts, dim=-1)


def unpack_blocks_fp8(packed: torch.Tensor, blocks: torch.Tensor, cache: torch.Tensor) -> None:
    """The reverse of `pack_blocks_fp8`, to the `blocks` of `cache`, all different."""
    shape = (*packed.shape[:2], *cache.shape[2:])
    values, scales = split_fp8(packed, cache)
    wide = values.float().view(shape) * scales.view(*shape[:3], 1, shape[4], 1)
    cache.index_copy_(1, blocks, wide.to(cache.dtype))


def split_fp8(packed: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of numbers [num_layers, n, 2 block_size num_kv_heads head_dim] and scales [.., 2
    num_kv_heads] of blocks that `pack_blocks_fp8` made of such a `cache`."""
    numbers = cache.shape[2:].numel()
    return packed[..., :numbers].view(E4M3), packed[..., numbers:].view(torch.float32)
