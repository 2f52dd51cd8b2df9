"""Blocks of the paged cache gathered for the wire in 8-bit floating point, and scattered again.

    scale = max |cache[layer, blocks[i], half, :, head]| / 448, for each layer, i, half and head
    packed = round(cache / scale), then the scales        and        cache = packed * scale

cache: [num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim] of float32, bfloat16 or
float16, whole or a slice of its layers; blocks: int32 or int64 [n], all different; packed: uint8
[num_layers, n, bytes], where a block is its e4m3 numbers and then float32 [2, num_kv_heads].

Memory-bound: every number is read and written once, one of the two as a byte. A program takes the
keys or the values of one head of one block, which share a scale. A scale for each head, because
some heads have keys many times as large as others'; for each block, because then a block can be
packed and unpacked alone.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.e4m3 import quantise
from lengthwise_kernels.gpu.launch import INTEGERS, check, require
from lengthwise_kernels.reference.kv_fp8 import split_fp8

_MAX_NUMBERS: Final = 16_384
"""128 numbers for each of 128 threads: blocks of 64 tokens with heads of 256."""


@triton.jit
def _block_fp8_kernel(
    cache_ptr, values_ptr, scales_ptr, blocks_ptr, num_cache_blocks,
    PACK: tl.constexpr, SLOTS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    half, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    index, layer = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    block = tl.load(blocks_ptr + index).to(tl.int64)
    slot, number = tl.arange(0, BLOCK_SLOTS), tl.arange(0, BLOCK_DIM)
    inside = (slot < SLOTS)[:, None] & (number < DIM)[None, :]
    numbers: tl.constexpr = 2 * SLOTS * HEADS * DIM
    in_block = ((half * SLOTS + slot) * HEADS + head)[:, None] * DIM + number[None, :]
    in_cache = cache_ptr + (layer * num_cache_blocks + block) * numbers + in_block
    packed_block = (layer * tl.num_programs(1) + index) * (numbers + 8 * HEADS)
    in_packed = values_ptr + packed_block + in_block
    in_scales = scales_ptr + packed_block // 4 + half * HEADS + head
    if PACK:
        x = tl.load(in_cache, mask=inside, other=0.0).to(tl.float32)
        values, scale = quantise(x, tl.max(tl.abs(x)))
        tl.store(in_packed, values, mask=inside)
        tl.store(in_scales, scale)
    else:
        x = tl.load(in_packed, mask=inside, other=0.0).to(tl.float32) * tl.load(in_scales)
        tl.store(in_cache, x.to(cache_ptr.dtype.element_ty), mask=inside)


def pack_blocks_fp8(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """`pack_blocks` in 8-bit floating point: uint8 [num_layers, n, bytes of a block]."""
    num_bytes = _check("pack_blocks_fp8", cache, blocks)
    packed = cache.new_empty((len(cache), len(blocks), num_bytes), dtype=torch.uint8)
    _copy(cache, packed, blocks, pack=True)
    return packed


def unpack_blocks_fp8(packed: torch.Tensor, blocks: torch.Tensor, cache: torch.Tensor) -> None:
    """The reverse of `pack_blocks_fp8`, to the `blocks` of `cache`, all different."""
    op = "unpack_blocks_fp8"
    num_bytes = _check(op, cache, blocks)
    check(f"{op}: packed", packed, (len(cache), len(blocks), num_bytes), (torch.uint8,))
    _copy(cache, packed, blocks, pack=False)


def _check(op: str, cache: torch.Tensor, blocks: torch.Tensor) -> int:
    """Returns the bytes of a packed block."""
    check(f"{op}: cache", cache, [None, None, 2, None, None, None])
    check(f"{op}: blocks", blocks, [None], INTEGERS)
    _, slots, heads, dim = cache.shape[2:]
    numbers = triton.next_power_of_2(slots) * triton.next_power_of_2(dim)
    require(
        numbers <= _MAX_NUMBERS and slots * dim % 2 == 0,
        f"{op}: a block's slots times head_dim must be even and, each rounded up to a power of 2,"
        f" at most {_MAX_NUMBERS}, got {slots} and {dim}",
    )
    return int(2 * heads * (slots * dim + 4))


def _copy(cache: torch.Tensor, packed: torch.Tensor, blocks: torch.Tensor, *, pack: bool) -> None:
    if packed.numel() == 0:
        return
    values, scales = split_fp8(packed, cache)
    _, slots, heads, dim = cache.shape[2:]
    _block_fp8_kernel[(2 * heads, len(blocks), len(cache))](
        cache, values, scales, blocks, cache.shape[1],
        PACK=pack, SLOTS=slots, HEADS=heads, DIM=dim,
        BLOCK_SLOTS=triton.next_power_of_2(slots), BLOCK_DIM=triton.next_power_of_2(dim),
        num_warps=4,
    )  # fmt: skip
