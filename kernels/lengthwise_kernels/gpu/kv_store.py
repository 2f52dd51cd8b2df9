"""Rotation of queries and keys fused with writing keys and values into the paged cache.

    (a, b) -> (a cos - b sin, b cos + a sin)    for the pairs (i, i + head_dim / 2) of a head

heads: [tokens, num_heads + 2 num_kv_heads, head_dim] as the projection leaves them; cos, sin:
[tokens, head_dim / 2]; layer: [num_blocks, 2, block_size, num_kv_heads, head_dim]; rows: int64
[2, tokens]; the result: queries [tokens, num_heads, head_dim]; all but rows of one of float32,
bfloat16 and float16. Query and key heads may be RMS-normalised before. (Su et al. 2021,
arXiv:2104.09864.)

Memory-bound: every head is read once and written once, where PyTorch would take a kernel for each
of norm, product, sum, concatenation and scatter. A program takes some heads of one token. Products
are rounded before they are added, as Hugging Face's models do.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check, require
from lengthwise_kernels.reference.kv import HeadNorms

_PROGRAM_NUMBERS: Final = 2048
"""16 numbers for each of 128 threads: two loads of 16 bytes."""


@triton.jit(do_not_specialize=["tokens"])
def _rotate_and_store_kernel(
    heads_ptr, cos_ptr, sin_ptr, query_norm_ptr, key_norm_ptr, layer_ptr, rows_ptr, queries_ptr,
    tokens, eps,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pair = tl.arange(0, BLOCK_HALF)
    num_rotated: tl.constexpr = NUM_HEADS + NUM_KV_HEADS
    total: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    inside = (head < total)[:, None] & (pair < HALF)[None, :]
    source = heads_ptr + ((token * total + head) * 2 * HALF)[:, None] + pair[None, :]
    kind = heads_ptr.dtype.element_ty
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    rotated = (head < num_rotated)[:, None]
    if NORM:
        mean = (tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF)
        scale = tl.rsqrt(mean + eps)[:, None]
        is_query = (head < NUM_HEADS)[:, None] & (pair < HALF)[None, :]
        is_key = (head >= NUM_HEADS)[:, None] & (pair < HALF)[None, :]
        query_weight, key_weight = query_norm_ptr + pair[None, :], key_norm_ptr + pair[None, :]
        weight = tl.load(query_weight, mask=is_query, other=0.0).to(tl.float32)
        weight += tl.load(key_weight, mask=is_key, other=0.0).to(tl.float32)
        normed = (first * scale).to(kind).to(tl.float32) * weight
        first = tl.where(rotated, normed.to(kind).to(tl.float32), first)
        weight = tl.load(query_weight + HALF, mask=is_query, other=0.0).to(tl.float32)
        weight += tl.load(key_weight + HALF, mask=is_key, other=0.0).to(tl.float32)
        normed = (second * scale).to(kind).to(tl.float32) * weight
        second = tl.where(rotated, normed.to(kind).to(tl.float32), second)
    angle = token * HALF + pair
    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0).to(tl.float32)[None, :]
    turned = (first * cos).to(kind).to(tl.float32) - (second * sin).to(kind).to(tl.float32)
    other = (second * cos).to(kind).to(tl.float32) + (first * sin).to(kind).to(tl.float32)
    first = tl.where(rotated, turned, first)
    second = tl.where(rotated, other, second)
    # Every head knows its place: queries in the result, keys and values in their row of the cache.
    key_row, value_row = tl.load(rows_ptr + token), tl.load(rows_ptr + tokens + token)
    row = tl.where(head < num_rotated, key_row, value_row)
    kv_head = tl.where(head < num_rotated, head - NUM_HEADS, head - num_rotated)
    in_cache = layer_ptr + (row * NUM_KV_HEADS + kv_head) * 2 * HALF
    in_queries = queries_ptr + (token * NUM_HEADS + head) * 2 * HALF
    target = tl.where(head < NUM_HEADS, in_queries, in_cache)[:, None] + pair[None, :]
    kept = inside & ((head < NUM_HEADS) | (row >= 0))[:, None]
    tl.store(target, first.to(kind), mask=kept)
    tl.store(target + HALF, second.to(kind), mask=kept)


def rotate_and_store(
    heads: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: HeadNorms | None,
    layer: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """Normalise and rotate queries and keys, write keys and values to `rows`, return the queries.

    The same as `reference.kv.rotate_and_store`, and a token whose rows are below 0 is stored
    nowhere: it is the padding of a CUDA graph.
    """
    op = "rotate_and_store"
    check(f"{op}: layer", layer, [None, 2, None, None, None])
    num_kv_heads, head_dim = layer.shape[-2:]
    check(f"{op}: heads", heads, [None, None, head_dim], (layer.dtype,))
    tokens, total = heads.shape[:2]
    num_heads = total - 2 * num_kv_heads
    require(
        num_heads > 0 and head_dim % 2 == 0 and head_dim <= 256,
        f"{op}: needs query heads and an even head_dim of at most 256, got {total} heads of"
        f" {head_dim} with {num_kv_heads} key heads",
    )
    for name, angles in (("cos", cos), ("sin", sin)):
        check(f"{op}: {name}", angles, [tokens, head_dim // 2], (layer.dtype,))
    check(f"{op}: rows", rows, [2, tokens], (torch.int64,))
    if norms is not None:
        check(f"{op}: norms.query", norms.query, [head_dim], (layer.dtype,))
        check(f"{op}: norms.key", norms.key, [head_dim], (layer.dtype,))
    queries = heads.new_empty((tokens, num_heads, head_dim))
    if tokens == 0:
        return queries
    block_half = triton.next_power_of_2(head_dim // 2)
    block_heads = max(1, _PROGRAM_NUMBERS // (2 * block_half))
    _rotate_and_store_kernel[(tokens, triton.cdiv(total, block_heads))](
        heads, cos, sin,
        norms and norms.query, norms and norms.key,
        layer, rows, queries, tokens,
        norms.eps if norms is not None else 0.0,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HALF=head_dim // 2,
        NORM=norms is not None, BLOCK_HEADS=block_heads, BLOCK_HALF=block_half, num_warps=4,
    )  # fmt: skip
    return queries
