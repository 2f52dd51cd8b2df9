"""Blocks of the paged cache gathered into one piece of memory for the wire, and scattered again.

    packed[layer, i] = cache[layer, blocks[i]]    and    cache[layer, blocks[i]] = packed[layer, i]

cache: [num_layers, num_blocks, ...], whole or a slice of its layers; blocks: int32 or int64 [n],
all different; packed: [num_layers, n, ...]; float32, bfloat16 or float16.

Memory-bound: every byte is read and written once; a program copies a piece of one block.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import INTEGERS, check

_PIECE: Final = 4096
"""32 numbers for each of 128 threads: four loads of 16 bytes in flight."""


@triton.jit
def _copy_blocks_kernel(
    cache_ptr, packed_ptr, blocks_ptr, num_cache_blocks, numbers,
    PACK: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    index, layer = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    block = tl.load(blocks_ptr + index).to(tl.int64)
    number = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    inside = number < numbers
    in_cache = cache_ptr + (layer * num_cache_blocks + block) * numbers + number
    in_packed = packed_ptr + (layer * tl.num_programs(1) + index) * numbers + number
    if PACK:
        tl.store(in_packed, tl.load(in_cache, mask=inside), mask=inside)
    else:
        tl.store(in_cache, tl.load(in_packed, mask=inside), mask=inside)


def pack_blocks(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """The `blocks` [n] of all layers of `cache`, one after the other: [num_layers, n, ...]."""
    check("pack_blocks: cache", cache, [None] * cache.dim())
    check("pack_blocks: blocks", blocks, [None], INTEGERS)
    packed = cache.new_empty((cache.shape[0], len(blocks), *cache.shape[2:]))
    _copy(cache, packed, blocks, pack=True)
    return packed


def unpack_blocks(packed: torch.Tensor, blocks: torch.Tensor, cache: torch.Tensor) -> None:
    """The reverse of `pack_blocks`: write `packed` to the `blocks` of `cache`, all different."""
    check("unpack_blocks: cache", cache, [None] * cache.dim())
    check("unpack_blocks: blocks", blocks, [None], INTEGERS)
    shape = (cache.shape[0], len(blocks), *cache.shape[2:])
    check("unpack_blocks: packed", packed, shape, (cache.dtype,))
    _copy(cache, packed, blocks, pack=False)


def _copy(cache: torch.Tensor, packed: torch.Tensor, blocks: torch.Tensor, *, pack: bool) -> None:
    if packed.numel() == 0:
        return
    numbers = packed[0, 0].numel()
    _copy_blocks_kernel[(triton.cdiv(numbers, _PIECE), len(blocks), len(cache))](
        cache, packed, blocks, cache.shape[1], numbers,
        PACK=pack, PIECE=_PIECE, num_warps=4,
    )  # fmt: skip
