"""The cases of norms, gates, the KV cache and sampling."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from gpu.agreement.attention import attention_groups
from gpu.agreement.case import BLOCK, Case, Run, Sizes, paged_layer
from gpu.agreement.experts import expert_cases
from gpu.agreement.fp8 import fp8_cases
from gpu.agreement.int4 import int4_cases
from gpu.agreement.low_rank import low_rank_cases
from lengthwise_kernels.gpu import digest as gpu_digest
from lengthwise_kernels.gpu import kv_pack, kv_store, rms_norm, sampling, silu_mul
from lengthwise_kernels.reference import digest, kv, layers
from lengthwise_kernels.reference import sampling as plain_sampling
from lengthwise_kernels.reference.penalties import Penalties


def cases(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """All cases, each made when it is asked for: together they would not fit a GPU."""
    torch.manual_seed(0)
    for group in case_groups(sizes, device, dtype).values():
        yield from group()


def case_groups(
    sizes: Sizes, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], Iterator[Case]]]:
    """The cases by the kernels they are of; nothing is made before a group is called.

    Those that most depends on come first: where time is short, the last are left out.
    """
    return {
        **attention_groups(sizes, device, dtype),
        "norms and gates": lambda: _elementwise(sizes, device, dtype),
        "KV cache": lambda: _cache(sizes, device, dtype),
        "sampling": lambda: _sampling(sizes, device),
        "experts": lambda: expert_cases(sizes, device, dtype),
        "FP8": lambda: fp8_cases(sizes, device, dtype),
        "weights of 4 bits": lambda: int4_cases(sizes, device, dtype),
        "adapters": lambda: low_rank_cases(sizes, device, dtype),
    }


def _eager_and_compiled(function: Callable[..., Any], *arguments: Any) -> dict[str, Run]:
    """PyTorch as it is and, on a GPU, compiled; of tuples the first counts."""

    def run(call: Callable[..., Any]) -> Run:
        def once() -> torch.Tensor:
            result = call(*arguments)
            first: torch.Tensor = result[0] if isinstance(result, tuple) else result
            return first

        return once

    runs = {"torch eager": run(function)}
    if arguments[0].is_cuda:
        runs["torch.compile"] = run(torch.compile(function))
    return runs


def _elementwise(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    x, residual = torch.randn(2, sizes.tokens, sizes.hidden, device=device, dtype=dtype)
    weight = torch.randn(sizes.hidden, device=device, dtype=dtype)
    shape = f"{sizes.tokens} x {sizes.hidden}"
    yield Case(
        op="rms_norm",
        shape=shape,
        ours=lambda: rms_norm.rms_norm(x, weight, 1e-6),
        rivals=_eager_and_compiled(layers.rms_norm, x, weight, 1e-6),
        num_bytes=2 * x.nbytes,
    )
    yield Case(
        op="add_rms_norm",
        shape=shape,
        ours=lambda: rms_norm.add_rms_norm(x, residual, weight, 1e-6)[0],
        rivals=_eager_and_compiled(layers.add_rms_norm, x, residual, weight, 1e-6),
        num_bytes=4 * x.nbytes,
    )
    gate_up = torch.randn(sizes.tokens // 4, 2 * sizes.inner, device=device, dtype=dtype)
    yield Case(
        op="silu_mul",
        shape=f"{sizes.tokens // 4} x {sizes.inner}",
        ours=lambda: silu_mul.silu_mul(gate_up),
        rivals=_eager_and_compiled(layers.silu_mul, gate_up),
        num_bytes=gate_up.nbytes * 3 // 2,
    )


def _cache(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    num_heads, num_kv_heads, head_dim = sizes.heads
    heads = torch.randn(
        sizes.tokens, num_heads + 2 * num_kv_heads, head_dim, device=device, dtype=dtype
    )
    angles = torch.randn(sizes.tokens, head_dim // 2, device=device)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    blocks = torch.randperm(sizes.tokens // BLOCK, device=device)
    layer = paged_layer(len(blocks), sizes, device, dtype)
    positions = torch.arange(sizes.tokens, device=device)
    rows = kv.kv_rows(positions, blocks[positions // BLOCK], BLOCK)
    yield Case(
        op="rotate_and_store",
        shape=f"{sizes.tokens} tokens, {num_heads}/{num_kv_heads} heads of {head_dim}",
        ours=lambda: kv_store.rotate_and_store(heads, cos, sin, None, layer, rows),
        rivals=_eager_and_compiled(kv.rotate_and_store, heads, cos, sin, None, layer, rows),
        num_bytes=2 * heads.nbytes + 2 * cos.nbytes + rows.nbytes,
    )
    num_layers, count = sizes.packed
    cache = torch.stack([paged_layer(4 * count, sizes, device, dtype) for _ in range(num_layers)])
    chosen = torch.randperm(4 * count, device=device)[:count]
    yield Case(
        op="pack_blocks",
        shape=f"{count} blocks of {num_layers} layers",
        ours=lambda: kv_pack.pack_blocks(cache, chosen),
        rivals={"torch eager": lambda: kv.pack_blocks(cache, chosen)},
        num_bytes=2 * cache[:, :count].nbytes,
    )
    words = cache.flatten().view(torch.int64)
    yield Case(
        op="digest",
        shape=f"{words.nbytes >> 20} MiB",
        ours=lambda: gpu_digest.digest(words),
        rivals={"torch eager": lambda: digest.digest(words)},
        num_bytes=words.nbytes,
    )


def _sampling(sizes: Sizes, device: str) -> Iterator[Case]:
    rows, vocab_size = sizes.vocabulary
    scores = 4 * torch.randn(rows, vocab_size, device=device)
    seeds, ones = torch.arange(rows, device=device), torch.ones(rows, device=device)
    counts = torch.zeros(2, vocab_size, dtype=torch.int32, device=device)
    counts[1, ::50] = 2
    for name, top_k, top_p, slot in (
        ("plain", 0, 1.0, 0),
        ("top-k", 50, 1.0, 0),
        ("top-p", 0, 0.9, 0),
        ("top-k and top-p, penalised", 20, 0.8, 1),
    ):
        narrowing: dict[str, Any] = {
            "temperatures": ones,
            "seeds": seeds,
            "positions": seeds,
            "top_k": torch.full((rows,), top_k, device=device),
            "top_p": torch.full((rows,), top_p, device=device),
            "min_p": torch.zeros(rows, device=device),
            "penalties": Penalties(
                counts=counts,
                slots=torch.full((rows,), slot, device=device),
                repetition=1.05 * ones,
                presence=ones,
                frequency=ones,
            ),
        }
        yield Case(
            op="sample_tokens",
            shape=f"{rows} x {vocab_size} {name}",
            ours=partial(sampling.sample_tokens, scores, **narrowing),
            rivals={"torch eager": partial(plain_sampling.sample_tokens, scores, **narrowing)},
            num_bytes=scores.nbytes,
            rivals_ask_the_host=True,
        )
