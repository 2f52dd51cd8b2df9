"""Launches to compile for Hopper: the shapes of the models the project is measured with.

Every kernel is here in every variant that a launcher can choose, but not all pairs of them: decode
of heads of 64 and 256 is that of what a shared prefix leaves, and prompts in windows run the loops
of those without and one more.
"""

from collections.abc import Callable
from functools import partial

import torch

from lengthwise_kernels.gpu import (
    digest,
    int4_linear,
    invariant_linear,
    kv_clear,
    kv_pack,
    kv_store,
    quantise_rows,
    rms_norm,
    sampling,
    scaled_linear,
    silu_mul,
)
from lengthwise_kernels.gpu.adapters import low_rank
from lengthwise_kernels.gpu.attention.decode import DecodeRows, decode_attention
from lengthwise_kernels.gpu.attention.fixed_splits import SplitTiles, split_attention
from lengthwise_kernels.gpu.attention.prefill import PromptTiles, prefill_attention
from lengthwise_kernels.gpu.attention.shared_prefix import (
    PrefixGroups,
    shared_prefix_attention,
)
from lengthwise_kernels.gpu.experts import combine, grouped_linear
from lengthwise_kernels.gpu.experts import routing as gpu_routing
from lengthwise_kernels.low_rank import AdapterTiles, LowRankProduct
from lengthwise_kernels.reference.fp8 import E4M3, Fp8Rows
from lengthwise_kernels.reference.kv import HeadNorms
from lengthwise_kernels.reference.penalties import Penalties
from lengthwise_kernels.reference.routing import Routes

BF16, F32 = torch.bfloat16, torch.float32


def _empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _indices(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.int32)


def _elementwise() -> None:
    x, weight = _empty(64, 5120), _empty(5120)
    rms_norm.rms_norm(x, weight, 1e-6)
    rms_norm.add_rms_norm(x, x, weight, 1e-6)
    silu_mul.silu_mul(_empty(64, 2 * 27_648))


def _quantise() -> None:
    x, weight = _empty(64, 5120), _empty(5120)
    quantise_rows.quantise_rows(x)
    quantise_rows.quantise_rows(_empty(64, quantise_rows.MAX_SIZE))
    quantise_rows.add_rms_norm_fp8(x, x, weight, 1e-6)
    quantise_rows.silu_mul_fp8(_empty(64, 2 * 27_648))


def _scaled(rows: int, bias: bool, tile_rows: int | None = None) -> None:
    x, weight = _fp8_rows(rows, 5120), _fp8_rows(27_648, 5120)
    scaled_linear.triton_linear(x, weight, _empty(27_648) if bias else None, BF16, tile_rows)


def _invariant(dtype: torch.dtype) -> None:
    """Projections of all numbers of rows, which the same code has to serve."""
    for rows in (1, 16, 37, 4096):
        invariant_linear.invariant_linear(
            _empty(rows, 5120, dtype=dtype), _empty(27_648, 5120, dtype=dtype), None
        )
    x = _empty(1, 5120, dtype=dtype)
    invariant_linear.invariant_linear(x, _empty(7168, 5120, dtype=dtype), _empty(7168, dtype=dtype))


def _int4(
    rows: tuple[int, ...], group: int, dtype: torch.dtype = BF16, *, outputs: int = 27_648
) -> None:
    """With one size of tile where these are several numbers of rows."""
    shape, groups = (outputs, 5120), (outputs, 5120 // group)
    scales = _empty(*groups, dtype=F32)
    weight = int4_linear.Int4Tiles.of(
        _empty(*shape, dtype=torch.uint8), scales, scales, group_size=group, dtype=dtype
    )
    weight = weight.in_any_batch() if len(rows) > 1 else weight
    for count in rows:
        weight.product(_empty(count, 5120, dtype=dtype))


def _routes(rows: int, chosen: int = 8, experts: int = 128) -> Routes:
    return Routes(
        shares=_empty(rows, chosen, dtype=F32),
        order=_indices(rows * chosen),
        begins=_indices(experts + 1),
    )


def _experts(dtype: torch.dtype) -> None:
    """The products of Qwen3-30B-A3B for all numbers of rows, which the same code has to serve."""
    gate_up, down = _empty(128, 1536, 2048, dtype=dtype), _empty(128, 2048, 768, dtype=dtype)
    for rows in (1, 16, 37, 4096):
        routes = _routes(rows)
        grouped_linear.gathered_linear(_empty(rows, 2048, dtype=dtype), gate_up, routes, dtype)
        grouped_linear.scattered_linear(_empty(8 * rows, 768, dtype=dtype), down, routes, dtype)


def _fp8_experts() -> None:
    gate_up, down = (
        Fp8Rows(
            values=_empty(128, outputs, inputs, dtype=E4M3), scales=_empty(128, outputs, dtype=F32)
        )
        for outputs, inputs in ((1536, 2048), (2048, 768))
    )
    for rows in (1, 37, 4096):
        routes = _routes(rows)
        grouped_linear.gathered_linear(_fp8_rows(rows, 2048), gate_up, routes, BF16)
        grouped_linear.scattered_linear(_fp8_rows(8 * rows, 768), down, routes, BF16)


def _routing() -> None:
    """Of several sizes, which have to be served by the same code."""
    for rows in (1, 16, 37):
        gpu_routing.route(_empty(rows, 128), 8, is_normalised=True)
        combine.combine(_empty(8 * rows, 2048), _routes(rows))


def _fp8_rows(rows: int, size: int) -> Fp8Rows:
    return Fp8Rows(values=_empty(rows, size, dtype=E4M3), scales=_empty(rows, dtype=F32))


def _store(normed: bool) -> None:
    layer = _empty(100, 2, 16, 8, 128)
    angles, rows = _empty(64, 64), _empty(2, 64, dtype=torch.int64)
    norms = HeadNorms(query=_empty(128), key=_empty(128), eps=1e-6) if normed else None
    kv_store.rotate_and_store(_empty(64, 48, 128), angles, angles, norms, layer, rows)


def _pack() -> None:
    cache, blocks = _empty(4, 100, 2, 16, 8, 128), _empty(10, dtype=torch.int64)
    packed = kv_pack.pack_blocks(cache, blocks)
    kv_pack.unpack_blocks(packed, blocks, cache)
    kv_clear.clear_blocks(cache, blocks)
    digest.digest(_empty(1 << 19, dtype=torch.int64))


def _low_rank(rank: int, inputs: int, sizes: tuple[int, ...], dtype: torch.dtype = BF16) -> None:
    """Steps of several sizes, which the same code has to serve."""
    begins = [sum(sizes[:part]) for part in range(len(sizes))]
    outputs = list(zip(begins, sizes, strict=True))
    product = LowRankProduct.zeros(64, rank, inputs, outputs, dtype, torch.device("meta"))
    for rows, tiles in ((1, 1), (32, 32), (1024, 124)):
        x, result = _empty(rows, inputs, dtype=dtype), _empty(rows, sum(sizes), dtype=dtype)
        own = AdapterTiles(_indices(tiles), _indices(tiles * low_rank.TILE_ROWS))
        low_rank.add_low_rank(result, x, product, own)


def _steps() -> None:
    """Steps of several sizes, which have to be served by the same code."""
    layer = _empty(100, 2, 16, 8, 128)
    for tokens, width in ((1, 1), (16, 16), (37, 5)):
        x, weight = _empty(tokens, 5120), _empty(5120)
        rms_norm.add_rms_norm(x, x, weight, 1e-6)
        silu_mul.silu_mul(_empty(tokens, 2 * 27_648))
        quantise_rows.quantise_rows(x)
        quantise_rows.add_rms_norm_fp8(x, x, weight, 1e-6)
        quantise_rows.silu_mul_fp8(_empty(tokens, 2 * 27_648))
        angles, rows = _empty(tokens, 64), _empty(2, tokens, dtype=torch.int64)
        queries = kv_store.rotate_and_store(
            _empty(tokens, 48, 128), angles, angles, None, layer, rows
        )
        decode_attention(queries, layer, _rows(tokens, width), 0.1, torch.empty_like(queries))
        prompts = PromptTiles(
            tiles=_indices(tokens, 4),
            tables=_indices(tokens * width),
            block_size=16,
            rows=128,
            window=None,
        )
        prefill_attention(queries, layer, prompts, 0.1, torch.empty_like(queries))


def _sample(dtype: torch.dtype) -> None:
    whole, part = _empty(32, dtype=torch.int64), _empty(32, dtype=F32)
    sampling.sample_tokens(
        _empty(32, 152_064, dtype=dtype),
        temperatures=part,
        seeds=whole,
        positions=whole,
        top_k=whole,
        top_p=part,
        min_p=part,
        penalties=Penalties(
            counts=_empty(257, 152_064, dtype=torch.int32),
            slots=whole,
            repetition=part,
            presence=part,
            frequency=part,
        ),
    )


def _rows(count: int = 64, width: int = 48) -> DecodeRows:
    return DecodeRows(
        queries=_indices(count),
        begins=_indices(count),
        ends=_indices(count),
        tables=_indices(count * width),
        table_starts=_indices(count),
        first_tiles=_indices(count + 1),
        block_size=16,
        num_programs=264,
    )


def _shared_prefix(heads: tuple[int, int, int]) -> None:
    num_heads, num_kv_heads, head_dim = heads
    queries, layer = _empty(64, num_heads, head_dim), _empty(100, 2, 16, num_kv_heads, head_dim)
    out = torch.empty_like(queries)
    groups = PrefixGroups(tiles=_indices(16, 4), rests=_rows(), splits=4)
    shared_prefix_attention(queries, layer, groups, 0.1, out)


def _decode(heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    num_heads, num_kv_heads, head_dim = heads
    queries = _empty(64, num_heads, head_dim, dtype=dtype)
    layer = _empty(100, 2, 16, num_kv_heads, head_dim, dtype=dtype)
    decode_attention(queries, layer, _rows(), 0.1, torch.empty_like(queries))


def _prefill(
    heads: tuple[int, int, int], dtype: torch.dtype, rows: int, window: int | None
) -> None:
    num_heads, num_kv_heads, head_dim = heads
    queries = _empty(4096, num_heads, head_dim, dtype=dtype)
    layer = _empty(100, 2, 16, num_kv_heads, head_dim, dtype=dtype)
    prompts = PromptTiles(
        tiles=_indices(128, 4), tables=_indices(4 * 48), block_size=16, rows=rows, window=window
    )
    prefill_attention(queries, layer, prompts, 0.1, torch.empty_like(queries))


def _splits(heads: tuple[int, int, int], dtype: torch.dtype, window: int | None) -> None:
    """Prompts and single queries, which the same code has to serve."""
    num_heads, num_kv_heads, head_dim = heads
    layer = _empty(100, 2, 16, num_kv_heads, head_dim, dtype=dtype)
    for tokens, tiles, cut in ((4096, 128, False), (16, 16, True), (1, 1, True)):
        queries = _empty(tokens, num_heads, head_dim, dtype=dtype)
        splits = SplitTiles(
            tiles=_indices(tiles, 4),
            first_programs=_indices(tiles + 1),
            tables=_indices(4 * 48),
            block_size=16,
            num_programs=tiles,
            cut=cut,
            window=window,
        )
        split_attention(queries, layer, splits, 0.1, torch.empty_like(queries))


# (query heads, key heads, head size) of Qwen2.5-0.5B, TinyLlama, Llama-3.1-8B, Qwen2.5-32B and 72B,
# Phi-3 mini (whose heads are none of the sizes that matrix units take), Gemma 2 9B and Gemma 3 1B.
# Together prompts have every head size with and without a window, and groups of 4, 5, 7 and 8.
HEADS = {
    "64": (14, 2, 64),
    "64-by-8": (32, 4, 64),
    "128": (32, 8, 128),
    "128-by-5": (40, 8, 128),
    "128-by-8": (64, 8, 128),
    "96": (32, 32, 96),
    "256": (16, 8, 256),
    "256-by-4": (4, 1, 256),
}

CASES: dict[str, Callable[[], None]] = {
    "elementwise": _elementwise,
    "quantise": _quantise,
    "scaled-small": partial(_scaled, 16, bias=True),
    "scaled-64": partial(_scaled, 64, bias=False),
    "scaled-large": partial(_scaled, 4096, bias=True),
    "scaled-invariant": partial(_scaled, 1, bias=False, tile_rows=scaled_linear.INVARIANT_ROWS),
    "invariant-linear": partial(_invariant, BF16),
    "invariant-linear-float16": partial(_invariant, torch.float16),
    "invariant-linear-float32": partial(_invariant, F32),
    "int4-invariant": partial(_int4, (1, 16, 37, 4096), 128),
    "int4-invariant-groups-32": partial(_int4, (1, 16, 37, 4096), 32, torch.float16),
    "int4-few-rows": partial(_int4, (16,), 128),
    "int4-narrow": partial(_int4, (32,), 64, outputs=5120),
    "int4-float32": partial(_int4, (16,), 128, F32),
    "invariant-experts": partial(_experts, BF16),
    "invariant-experts-float32": partial(_experts, F32),
    "invariant-experts-fp8": _fp8_experts,
    "routing": _routing,
    "splits-window-128": partial(_splits, HEADS["128"], torch.float16, 4096),
    "splits-float32-64": partial(_splits, HEADS["64"], F32, None),
    **{
        f"splits-{name}": partial(_splits, HEADS[name], BF16, None)
        for name in ("64", "96", "128", "256")
    },
    "low-rank-qkv": partial(_low_rank, 16, 4096, (4096, 1024, 1024)),
    "low-rank-output": partial(_low_rank, 64, 4096, (4096,)),
    "low-rank-gate-up": partial(_low_rank, 8, 3584, (18_944, 18_944)),
    "low-rank-down": partial(_low_rank, 16, 18_944, (3584,)),
    "low-rank-largest": partial(_low_rank, 256, 4096, (4096, 1024, 1024)),
    "low-rank-float32": partial(_low_rank, 16, 896, (896, 128, 128), F32),
    "store": partial(_store, normed=False),
    "store-normed": partial(_store, normed=True),
    "pack": _pack,
    "sample": partial(_sample, BF16),
    "steps": _steps,
    "decode-float32-64": partial(_decode, HEADS["64"], F32),
    "prefill-float32-64": partial(_prefill, HEADS["64"], F32, 128, None),
    "prefill-small-128": partial(_prefill, HEADS["128"], BF16, 64, None),
    "prefill-small-256": partial(_prefill, HEADS["256"], BF16, 64, None),
    "decode-float16-16": partial(_decode, (4, 2, 16), torch.float16),
    **{f"decode-{name}": partial(_decode, HEADS[name], BF16) for name in ("128", "128-by-8")},
    **{
        f"shared-prefix-{name}": partial(_shared_prefix, HEADS[name])
        for name in ("64", "128-by-5", "256")
    },
    **{
        f"prefill-{name}": partial(_prefill, HEADS[name], BF16, 128, None)
        for name in ("64", "128", "256-by-4")
    },
    **{
        f"prefill-window-{name}": partial(_prefill, HEADS[name], BF16, 128, 4096)
        for name in ("64-by-8", "128-by-5", "96", "256")
    },
}
