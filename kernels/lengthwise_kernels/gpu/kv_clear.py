"""Zeroing blocks of the paged cache in all layers.

    cache[:, b] = 0    for every b >= 0 of blocks

cache: [num_layers, num_blocks, ...] of one of float32, bfloat16 and float16; blocks: int64 [n].

A program zeroes one block of one layer. Blocks below 0 are the padding of a CUDA graph.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check

_PIECE: Final = 2048
"""16 numbers for each of 128 threads: two stores of 16 bytes."""


@triton.jit(do_not_specialize=["num_blocks"])
def _clear_kernel(cache_ptr, blocks_ptr, num_blocks, SIZE: tl.constexpr, PIECE: tl.constexpr):
    block, layer = tl.load(blocks_ptr + tl.program_id(0)), tl.program_id(1).to(tl.int64)
    if block < 0:
        return
    at = cache_ptr + (layer * num_blocks + block) * SIZE
    for first in range(0, SIZE, PIECE):
        number = first + tl.arange(0, PIECE)
        zeros = tl.zeros([PIECE], cache_ptr.dtype.element_ty)
        tl.store(at + number, zeros, mask=number < SIZE)


def clear_blocks(cache: torch.Tensor, blocks: torch.Tensor) -> None:
    """Zero these blocks of all layers; the same as `reference.kv.clear_blocks`."""
    check("clear_blocks: cache", cache, [None] * cache.dim())
    check("clear_blocks: blocks", blocks, [None], (torch.int64,))
    if len(blocks):
        layers, num_blocks, *inner = cache.shape
        size = cache[0, 0].numel() if inner else 1
        _clear_kernel[(len(blocks), layers)](
            cache, blocks, num_blocks, SIZE=size, PIECE=min(_PIECE, triton.next_power_of_2(size)),
            num_warps=4,
        )  # fmt: skip
