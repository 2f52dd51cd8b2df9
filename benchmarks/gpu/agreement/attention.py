"""The cases of attention: ours reads keys in shuffled blocks, PyTorch gets them in one piece."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.agreement.case import BLOCK, Case, Run, Sizes, paged_layer
from gpu.agreement.split_decode import split_decode_attention
from lengthwise_kernels.attention_plan import AttentionBatch, AttentionSpec
from lengthwise_kernels.gpu.attention import plan as attention
from lengthwise_kernels.gpu.attention.decode import decode_attention
from lengthwise_kernels.gpu.attention.shared_prefix import (
    PrefixGroups,
    cut_groups,
    shared_prefix_attention,
)
from lengthwise_kernels.gpu.launch import multiprocessors
from lengthwise_kernels.reference import attention as plain_attention

SPLITS: Final = 16


def attention_groups(
    sizes: Sizes, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], Iterator[Case]]]:
    """Prompts, decode and decode with a common prefix."""

    def prompts() -> Iterator[Case]:
        for length in sizes.prompts:
            yield _prompt(length, sizes, device, dtype)
        yield _short_prompts(sizes, device, dtype)

    def decode() -> Iterator[Case]:
        for name, lengths in sizes.decodes.items():
            yield _decode(name, lengths, sizes, device, dtype)

    def shared_prefix() -> Iterator[Case]:
        for rows, prefix, rest in sizes.prefixes:
            yield _shared_prefix((rows, prefix, rest), sizes, device, dtype)

    return {
        "attention of prompts": prompts,
        "attention of decode": decode,
        "attention with a common prefix": shared_prefix,
    }


def _prompt(length: int, sizes: Sizes, device: str, dtype: torch.dtype) -> Case:
    num_heads, num_kv_heads, head_dim = sizes.heads
    step = _step([(length, 0)], sizes, device, dtype)
    plan = attention.plan_attention(step.batch, window=None, spec=step.spec)
    blocks = step.layer[torch.tensor(step.batch.block_ids[0], device=device)]
    keys, values = (
        blocks[:, half].flatten(0, 1).transpose(0, 1).contiguous().unsqueeze(0) for half in (0, 1)
    )
    queries = step.queries.transpose(0, 1).unsqueeze(0).contiguous()

    def sdpa(backend: SDPBackend) -> Run:
        def run() -> torch.Tensor:
            with sdpa_kernel(backend):
                out = functional.scaled_dot_product_attention(
                    queries, keys, values, is_causal=True, enable_gqa=True
                )
            return out[0].transpose(0, 1)

        return run

    backends = {"sdpa math": SDPBackend.MATH}
    if device == "cuda":
        asked = SDPAParams(queries, keys, values, None, 0.0, True, True)
        able = {
            "sdpa flash": (SDPBackend.FLASH_ATTENTION, can_use_flash_attention(asked)),
            "sdpa cudnn": (SDPBackend.CUDNN_ATTENTION, can_use_cudnn_attention(asked)),
        }
        backends = {name: backend for name, (backend, usable) in able.items() if usable}
    return Case(
        op="prefill_attention",
        shape=f"{length} causal, {num_heads}/{num_kv_heads} heads of {head_dim}",
        ours=lambda: plan.attend(step.queries, step.layer, step.scale),
        rivals={
            **{name: sdpa(backend) for name, backend in backends.items()},
            "fixed splits": _invariant(step),
        },
        num_bytes=2 * step.queries.nbytes + keys.nbytes + values.nbytes,
        flops=2 * num_heads * head_dim * length * (length + 1),
    )


def _short_prompts(sizes: Sizes, device: str, dtype: torch.dtype) -> Case:
    count, length, history = sizes.short
    num_heads, num_kv_heads, head_dim = sizes.heads
    step = _step([(length, history)] * count, sizes, device, dtype)
    plan = attention.plan_attention(step.batch, window=None, spec=step.spec)
    plain = plain_attention.plan_attention(step.batch, window=None, spec=step.spec)
    keys = count * (history + length)
    return Case(
        op="prefill_attention",
        shape=f"{count} x {length} after {history}",
        ours=lambda: plan.attend(step.queries, step.layer, step.scale),
        rivals={"gather and sdpa": lambda: plain.attend(step.queries, step.layer, step.scale)},
        num_bytes=2 * step.queries.nbytes + 2 * keys * num_kv_heads * head_dim * dtype.itemsize,
        flops=4 * num_heads * head_dim * count * (length * history + length * (length + 1) // 2),
    )


def _decode(
    name: str, lengths: Sequence[int], sizes: Sizes, device: str, dtype: torch.dtype
) -> Case:
    _, num_kv_heads, head_dim = sizes.heads
    step = _step([(1, length - 1) for length in lengths], sizes, device, dtype)
    plan = attention.plan_attention(step.batch, window=None, spec=step.spec)
    plain = plain_attention.plan_attention(step.batch, window=None, spec=step.spec)
    rows = attention.decode_rows(_singles(step), None, BLOCK, step.spec)

    def split() -> torch.Tensor:
        out = torch.empty_like(step.queries)
        split_decode_attention(step.queries, step.layer, rows, step.scale, out, splits=SPLITS)
        return out

    return Case(
        op="decode_attention",
        shape=name,
        ours=lambda: plan.attend(step.queries, step.layer, step.scale),
        rivals={
            f"{SPLITS} splits": split,
            "fixed splits": _invariant(step),
            "gather and sdpa": lambda: plain.attend(step.queries, step.layer, step.scale),
        },
        num_bytes=2 * sum(lengths) * num_kv_heads * head_dim * dtype.itemsize,
    )


def _invariant(step: "_Step") -> Run:
    """As `numerics: invariant` computes it."""
    spec = replace(step.spec, invariant=True)
    plan = attention.plan_attention(step.batch, window=None, spec=spec)
    return lambda: plan.attend(step.queries, step.layer, step.scale)


def _shared_prefix(
    lengths: tuple[int, int, int], sizes: Sizes, device: str, dtype: torch.dtype
) -> Case:
    count, prefix, rest = lengths
    num_heads, num_kv_heads, head_dim = sizes.heads
    step = _step([(1, prefix + rest - 1)] * count, sizes, device, dtype, shared=prefix)
    rows = attention.decode_rows(_singles(step), None, BLOCK, step.spec)
    tiles = cut_groups([(0, count, prefix, 0)], num_heads // num_kv_heads)
    groups = PrefixGroups(
        tiles=torch.tensor(tiles, dtype=torch.int32, device=device),
        rests=attention.decode_rows(
            _singles(step), None, BLOCK, step.spec, prefixes=[prefix] * count
        ),
        splits=_prefix_splits(len(tiles) * num_kv_heads, device),
    )

    def ours() -> torch.Tensor:
        out = torch.empty_like(step.queries)
        shared_prefix_attention(step.queries, step.layer, groups, step.scale, out)
        return out

    def plain_decode() -> torch.Tensor:
        out = torch.empty_like(step.queries)
        decode_attention(step.queries, step.layer, rows, step.scale, out)
        return out

    return Case(
        op="shared_prefix_attention",
        shape=f"{count} rows, prefix {prefix}, rest {rest}",
        ours=ours,
        rivals={"decode_attention": plain_decode},
        num_bytes=2 * (prefix + count * rest) * num_kv_heads * head_dim * dtype.itemsize,
        flops=4 * num_heads * head_dim * count * (prefix + rest),
    )


def _prefix_splits(programs: int, device: str) -> int:
    """Shares of a prefix that give each multiprocessor two programs."""
    return max(1, 2 * multiprocessors(torch.device(device)) // programs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    batch: AttentionBatch
    spec: AttentionSpec
    queries: torch.Tensor
    layer: torch.Tensor

    @property
    def scale(self) -> float:
        return float(self.spec.head_dim**-0.5)


def _step(
    mix: Sequence[tuple[int, int]],
    sizes: Sizes,
    device: str,
    dtype: torch.dtype,
    shared: int = 0,
) -> _Step:
    """Sequences of (new tokens, tokens before) in shuffled blocks, the first `shared` the same."""
    num_heads, num_kv_heads, head_dim = sizes.heads
    common = shared // BLOCK
    counts = [-(-sum(lengths) // BLOCK) - common for lengths in mix]
    order = torch.randperm(common + sum(counts)).tolist()
    prefix, order = order[:common], order[common:]
    tables = []
    for count in counts:
        tables.append([*prefix, *order[:count]])
        order = order[count:]
    batch = AttentionBatch(
        query_lengths=[length for length, _ in mix],
        starts=[start for _, start in mix],
        block_ids=tables,
        block_size=BLOCK,
    )
    spec = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=torch.device(device),
    )
    shape = (sum(batch.query_lengths), num_heads, head_dim)
    queries = torch.randn(shape, device=device, dtype=dtype)
    layer = paged_layer(common + sum(counts), sizes, device, dtype)
    return _Step(batch=batch, spec=spec, queries=queries, layer=layer)


def _singles(step: _Step) -> list[tuple[int, int, Sequence[int]]]:
    places = zip(step.batch.starts, step.batch.block_ids, strict=True)
    return [(place, start, ids) for place, (start, ids) in enumerate(places)]
