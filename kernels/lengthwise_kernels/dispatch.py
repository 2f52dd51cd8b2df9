"""Which implementation of each operation runs.

Callers import operations from here and never name an implementation. Tensors on a GPU go
to the Triton kernel in `gpu`, all others to the plain PyTorch of `reference`, which says what each
operation computes.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import torch

from lengthwise_kernels import low_rank
from lengthwise_kernels.attention_plan import AttentionBatch as AttentionBatch
from lengthwise_kernels.attention_plan import AttentionForm as AttentionForm
from lengthwise_kernels.attention_plan import AttentionLayout as AttentionLayout
from lengthwise_kernels.attention_plan import AttentionPlan as AttentionPlan
from lengthwise_kernels.attention_plan import AttentionSpec as AttentionSpec
from lengthwise_kernels.attention_plan import PaddedShape as PaddedShape
from lengthwise_kernels.attention_plan import ScoredPlan as ScoredPlan
from lengthwise_kernels.attention_plan import Scoring as Scoring
from lengthwise_kernels.attention_plan import StepAttention as StepAttention
from lengthwise_kernels.int4 import Int4Weight
from lengthwise_kernels.integer_weight import IntegerWeight
from lengthwise_kernels.low_rank import LowRankProduct as LowRankProduct
from lengthwise_kernels.low_rank import Rows as Rows
from lengthwise_kernels.low_rank import StepAdapters as StepAdapters
from lengthwise_kernels.packed import linear as linear
from lengthwise_kernels.packed import pack as pack
from lengthwise_kernels.packed import packs as packs
from lengthwise_kernels.packed import packs_copy as packs_copy
from lengthwise_kernels.reference import attention, fp8, kv, layers, routing, sampling
from lengthwise_kernels.reference import digest as digests
from lengthwise_kernels.reference import invariant_linear as invariant
from lengthwise_kernels.reference.digest import num_digests as num_digests
from lengthwise_kernels.reference.fp8 import E4M3 as E4M3
from lengthwise_kernels.reference.fp8 import Fp8Rows as Fp8Rows
from lengthwise_kernels.reference.kv import HeadNorms as HeadNorms
from lengthwise_kernels.reference.kv8 import SCALE_BYTES as SCALE_BYTES
from lengthwise_kernels.reference.penalties import Penalties as Penalties
from lengthwise_kernels.reference.routing import Routes as Routes
from lengthwise_kernels.staging import Arrays

P = ParamSpec("P")
R = TypeVar("R")


def _on_gpu(truth: Callable[P, R], module: str) -> Callable[P, R]:
    """The namesake of `truth` in `gpu.<module>`."""
    return cast(Callable[P, R], _load(module, truth.__name__))


@functools.cache
def _load(module: str, name: str) -> object:
    """Imported when it is first used: Triton is not installed where there is no GPU."""
    return getattr(importlib.import_module(f"lengthwise_kernels.gpu.{module}"), name)


def _by_device(truth: Callable[P, R], module: str) -> Callable[P, R]:
    """`truth`, or its namesake where the first argument lies on a GPU."""

    @functools.wraps(truth)
    def operation(*args: P.args, **kwargs: P.kwargs) -> R:
        on_gpu = cast(torch.Tensor | Fp8Rows, args[0]).is_cuda
        return (_on_gpu(truth, module) if on_gpu else truth)(*args, **kwargs)

    return operation


rms_norm = _by_device(layers.rms_norm, "rms_norm")
add_rms_norm = _by_device(layers.add_rms_norm, "rms_norm")
silu_mul = _by_device(layers.silu_mul, "silu_mul")
quantise_rows = _by_device(fp8.quantise_rows, "quantise_rows")
add_rms_norm_fp8 = _by_device(fp8.add_rms_norm_fp8, "quantise_rows")
silu_mul_fp8 = _by_device(fp8.silu_mul_fp8, "quantise_rows")
scaled_linear = _by_device(fp8.scaled_linear, "scaled_linear")
invariant_linear = _by_device(invariant.invariant_linear, "invariant_linear")
is_alike_alone = _by_device(invariant.is_alike_alone, "invariant_linear")
route = _by_device(routing.route, "experts.routing")
gathered_linear = _by_device(routing.gathered_linear, "experts.grouped_linear")
scattered_linear = _by_device(routing.scattered_linear, "experts.grouped_linear")
combine = _by_device(routing.combine, "experts.combine")
store = kv.store
"""Without a kernel of its own: one `index_copy_` on every device."""
rotate_and_store = _by_device(kv.rotate_and_store, "kv_store")
clear_blocks = _by_device(kv.clear_blocks, "kv_clear")
pack_blocks = _by_device(kv.pack_blocks, "kv_pack")
unpack_blocks = _by_device(kv.unpack_blocks, "kv_pack")
digest = _by_device(digests.digest, "digest")
sample_tokens = _by_device(sampling.sample_tokens, "sampling")
add_low_rank = _by_device(low_rank.add_low_rank, "adapters.low_rank")


def lay_out_adapters(
    device: torch.device,
    tokens: low_rank.Ints,
    sampled: low_rank.Ints,
    num_adapters: int,
    padded_to: PaddedShape | None = None,
) -> Arrays:
    """What `StepAdapters` are bound from on `device`."""
    truth = low_rank.lay_out_adapters
    lay_out = _on_gpu(truth, "adapters.low_rank") if device.type == "cuda" else truth
    return lay_out(tokens, sampled, num_adapters, padded_to)


def pack_int4(
    codes: torch.Tensor,
    scales: torch.Tensor,
    offsets: torch.Tensor,
    *,
    group_size: int,
    dtype: torch.dtype,
) -> IntegerWeight:
    """As `Int4Weight.of`, for the device where `codes` lie."""
    kind = (
        cast(type[Int4Weight], _load("int4_linear", "Int4Tiles")) if codes.is_cuda else Int4Weight
    )
    return kind.of(codes, scales, offsets, group_size=group_size, dtype=dtype)


def lay_out_attention(
    batch: AttentionBatch,
    *,
    windows: Sequence[int | None],
    sampled: Sequence[int] | None,
    spec: AttentionSpec,
    padded_to: PaddedShape | None = None,
) -> AttentionLayout:
    """Work out the attention of `batch` for layers with these sliding windows.

    `sampled` are the sequences whose last token is sampled, None: all tokens are. With `padded_to`
    the step is padded to it.
    """
    truth = attention.lay_out_attention
    lay_out = _on_gpu(truth, "attention.plan") if _has_kernels(spec) else truth
    return lay_out(batch, windows=windows, sampled=sampled, spec=spec, padded_to=padded_to)


def warm_up_attention(spec: AttentionSpec, layer: torch.Tensor) -> None:
    """Compile what only some steps need; `layer` is one of the cache's."""
    if _has_kernels(spec):
        warm_up = _load("attention.plan", "warm_up_attention")
        cast(Callable[[AttentionSpec, torch.Tensor], None], warm_up)(spec, layer)


def check_attention(spec: AttentionSpec) -> None:
    """Raise `UnsupportedByKernel` if attention of this model cannot be computed on its device."""
    if _has_kernels(spec):
        cast(Callable[[AttentionSpec], None], _load("attention.plan", "check_attention"))(spec)


def _has_kernels(spec: AttentionSpec) -> bool:
    return spec.device.type == "cuda" and not spec.plain


def check_fp8(device: torch.device) -> None:
    """Raise `UnsupportedByKernel` if `device` cannot multiply 8-bit floating-point numbers."""
    if device.type == "cuda":
        cast(Callable[[torch.device], None], _load("scaled_linear", "check_fp8"))(device)
