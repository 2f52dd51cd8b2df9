"""What a worker's memory is used for, worked out from shapes before anything is loaded.

A plan is for one rank, which is all of a worker without tensor parallelism.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from lengthwise_checkpoint.gguf.tensor_types import BLOCK_INPUTS
from lengthwise_checkpoint.spec import DecoderSpec, ModelSpec
from lengthwise_engine.errors import CacheSizeError, DeviceMemoryError
from lengthwise_engine.kv.layout import ITEM_BYTES, KVDtype, KVLayout
from lengthwise_engine.models.foreign.spec import ForeignSpec
from lengthwise_engine.models.integers.codes import ROUNDED_BITS, ROUNDED_GROUP
from lengthwise_engine.models.integers.linear import integer_bytes
from lengthwise_engine.models.shard import ModelShard
from lengthwise_kernels.dispatch import packs
from lengthwise_policy.types import STEP_TOKENS

MAX_BLOCKS: Final = 1 << 20
"""Of a cache whose size is not asked for: 16 million tokens, whose hashes and free lists take a
worker 0.3 GB."""

SAMPLED_ROWS: Final = 256
"""Requests in one step by default."""

PROCESS_BYTES: Final = {"cpu": 384 << 20, "cuda": 1 << 30}
"""Of a worker and its transfer process before the model. On CPUs 179 MB and 152 MB were measured
with gloo (anonymous memory in `lengthwise up`, a model of 5 MB); on GPUs it is a CUDA context of
each, not measured here: others report 300 to 500 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What an operator asked for, of each rank. Of `num_blocks` and `kv_memory_bytes` the first
    one that is set is the size of the cache; where neither is, it gets what is left. Adapters count
    as weights."""

    num_blocks: int | None = None
    kv_memory_bytes: int | None = None
    max_context: int | None = None
    graph_memory_bytes: int = 0
    adapter_bytes: int = 0
    block_size: int = 16
    kv_dtype: KVDtype = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """`layout` is the rank's share of the cache, `dtype` what the model computes in. `budget_bytes`
    is what the rank should take in all; a cache of a size that was asked for may exceed it."""

    dtype: str
    budget_bytes: int
    weight_bytes: int
    workspace_bytes: int
    graph_bytes: int
    layout: KVLayout
    num_blocks: int
    model_context: int
    context_length: int

    @property
    def cache_bytes(self) -> int:
        return self.num_blocks * self.layout.num_layers * self.layout.block_bytes

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.workspace_bytes + self.graph_bytes + self.cache_bytes

    @property
    def cache_tokens(self) -> int:
        return self.num_blocks * self.layout.block_size

    @property
    def is_clamped_by_cache(self) -> bool:
        """Whether the cache, and not `max_context`, is why the context is what it is."""
        return self.context_length == self.cache_tokens + 1 < self.model_context

    def __str__(self) -> str:
        kv = "" if self.layout.dtype == self.dtype else f" in {self.layout.dtype}"
        return (
            f"{_mib(self.weight_bytes)} MiB of weights in {self.dtype},"
            f" {_mib(self.workspace_bytes)} MiB of workspace,"
            f" {_mib(self.graph_bytes)} MiB for graphs, {_mib(self.cache_bytes)} MiB of KV cache"
            f"{kv}: {self.num_blocks:,} blocks of {self.layout.block_size}, {self.cache_tokens:,}"
            f" tokens; a request has up to {self.context_length:,}"
        )


def plan_memory(
    model: ModelShard | ModelSpec,
    *,
    device_type: str,
    dtype: str,
    budget_bytes: int,
    settings: MemorySettings,
) -> MemoryPlan:
    """A rank's memory; a spec that is no shard is of a model without weights, the toy.

    The context is clamped to `max_context` and to what the cache holds, which is a token more than
    it has slots: nothing reads the KV of a sequence's last token.

    Raises `DeviceMemoryError` where the budget leaves no room for a block, `CacheSizeError` for
    settings that no cache can have, or none of this model on this device.
    """
    part = model.part if isinstance(model, ModelShard) else model
    if settings.kv_dtype == "int8":
        _check_int8(model, device_type)
    kv_dtype = dtype if settings.kv_dtype == "auto" else settings.kv_dtype
    layout = KVLayout.of(part, block_size=settings.block_size, dtype=kv_dtype)
    weights, step = _model_bytes(model, device_type, dtype)
    weights += settings.adapter_bytes
    workspace = PROCESS_BYTES[device_type] + step
    graphs = settings.graph_memory_bytes if device_type == "cuda" else 0
    fixed = weights + workspace + graphs
    num_blocks = _count_blocks(layout, budget_bytes, fixed, settings)
    asked = settings.max_context
    if asked is not None and not settings.block_size <= asked <= part.context_length:
        raise CacheSizeError(
            f"max_context: got {asked}, expected {settings.block_size} (one block) to"
            f" {part.context_length} (the model's context)"
        )
    return MemoryPlan(
        dtype=dtype,
        budget_bytes=budget_bytes,
        weight_bytes=weights,
        workspace_bytes=workspace,
        graph_bytes=graphs,
        layout=layout,
        num_blocks=num_blocks,
        model_context=part.context_length,
        context_length=min(asked or part.context_length, num_blocks * settings.block_size + 1),
    )


def _check_int8(model: ModelShard | ModelSpec, device_type: str) -> None:
    if device_type == "cuda":
        why = "the attention kernels of GPUs read keys and values as they are computed"
    elif not isinstance(model, ModelShard):
        why = f"{model.model_type} is not computed by our own code"
    elif model.size > 1:
        why = f"several ranks (tensor_parallel_size {model.size}) have no such caches"
    else:
        return
    raise CacheSizeError(f"kv_dtype: got int8, but {why}; set it to auto")


def _model_bytes(model: ModelShard | ModelSpec, device_type: str, dtype: str) -> tuple[int, int]:
    """Of weights and of a full step."""
    if isinstance(model, ModelShard):
        return weight_bytes(model, device_type, dtype), step_bytes(model, device_type, dtype)
    if isinstance(model, ForeignSpec):
        copied = packs(torch.device(device_type), getattr(torch, dtype))
        step = STEP_TOKENS * model.step_width * ITEM_BYTES[dtype] + _logit_bytes(model)
        return model.weight_bytes(dtype, is_head_copied=copied), step
    return 0, 0


def _count_blocks(
    layout: KVLayout, budget_bytes: int, fixed_bytes: int, settings: MemorySettings
) -> int:
    block_bytes = layout.num_layers * layout.block_bytes
    if settings.num_blocks is not None:
        return settings.num_blocks
    if settings.kv_memory_bytes is not None:
        num_blocks = settings.kv_memory_bytes // block_bytes
        if num_blocks < 1:
            raise CacheSizeError(
                f"kv_memory_bytes: got {settings.kv_memory_bytes}, but one KV block has"
                f" {block_bytes} bytes; leave it unset, or set it higher"
            )
        return num_blocks
    num_blocks = min((budget_bytes - fixed_bytes) // block_bytes, MAX_BLOCKS)
    if num_blocks < 1:
        raise DeviceMemoryError(
            f"the worker may take {_mib(budget_bytes)} MiB, but weights in {layout.dtype},"
            f" workspace and graphs need {_mib(fixed_bytes)} MiB, which leaves no KV block of"
            f" {block_bytes} bytes; run fewer workers here, raise memory_share, choose a smaller"
            " dtype or model, or set kv_memory_bytes, which is not held against that"
        )
    return num_blocks


def weight_bytes(shard: ModelShard, device_type: str, dtype: str) -> int:
    """Of a rank's weights as they are computed with, in `dtype` but for quantised projections."""
    part, item = shard.part, ITEM_BYTES[dtype]
    heads, kv = part.num_heads * part.head_dim, part.num_kv_heads * part.head_dim
    hidden = part.hidden_size
    matrix = partial(_matrix_bytes, part, item, device_type == "cuda")
    layer = item * (2 * hidden + 2 * part.head_dim * part.qk_norm)
    layer += matrix(hidden, heads + 2 * kv) + item * (heads + 2 * kv) * part.qkv_bias
    layer += matrix(heads, hidden) + item * hidden * part.output_bias
    mlps = part.routed.count(False) * _mlp_bytes(part, part.intermediate_size, item, matrix)
    if (experts := part.experts) is not None:
        each = _mlp_bytes(part, experts.intermediate_size, item, matrix)
        router = item * hidden * experts.count
        mlps += part.routed.count(True) * (len(shard.experts) * each + router)
    # Packed, a tied head is a copy.
    is_view = part.tied_embeddings and not packs(torch.device(device_type), getattr(torch, dtype))
    head = 0 if is_view else len(shard.vocabulary) * hidden
    return part.num_layers * layer + mlps + item * (part.vocab_size * hidden + hidden + head)


def _mlp_bytes(spec: DecoderSpec, inner: int, item: int, matrix: Callable[[int, int], int]) -> int:
    """Of one with `inner` neurons, or of an expert."""
    hidden = spec.hidden_size
    biases = (2 * inner + hidden) * spec.mlp_bias
    return matrix(hidden, 2 * inner) + matrix(inner, hidden) + item * biases


def _matrix_bytes(spec: DecoderSpec, item: int, on_gpu: bool, inputs: int, outputs: int) -> int:
    """Of a projection without its bias, whose weights may be fewer for integers."""
    if spec.projections == "full":
        return item * inputs * outputs
    integers = partial(integer_bytes, inputs, outputs, item=item, on_gpu=on_gpu)
    if (stored := spec.integers) is not None:
        bits, group_size = stored.bits, stored.group_size or inputs
        return integers(bits=bits, group_size=group_size, is_plain=stored.is_plain)
    if spec.projections not in ROUNDED_BITS:
        return inputs * outputs + 4 * outputs  # a float32 scale for each output
    bits = ROUNDED_BITS[spec.projections]
    group_size = inputs if bits == 8 else ROUNDED_GROUP
    rounded = integers(bits=bits, group_size=group_size, is_plain=bits == 8)
    if not 0 < spec.kept_bits <= bits:
        return rounded
    kept = integers(bits=spec.kept_bits, group_size=BLOCK_INPUTS, is_plain=False)
    return max(rounded, kept)


def step_bytes(shard: ModelShard, device_type: str, dtype: str) -> int:
    """Of a full step, at most: one layer's tensors, logits as they are adjusted, in float32, and as
    they were or, on GPUs, counts of tokens for penalties."""
    part = shard.part
    heads = (part.num_heads + 2 * part.num_kv_heads) * part.head_dim
    each = 4 * part.hidden_size + 2 * heads + 3 * part.intermediate_size
    if (experts := part.experts) is not None:
        # All places at once on GPUs; else as if one expert had all rows, whose weighted results are
        # in float32. So are shares.
        at_once = experts.num_chosen if device_type == "cuda" else 1
        each += at_once * (part.hidden_size + 3 * experts.intermediate_size)
        each += 5 * part.hidden_size
        each += 8 * (experts.count + experts.num_chosen)
    return STEP_TOKENS * each * ITEM_BYTES[dtype] + _logit_bytes(part)


def _logit_bytes(spec: ModelSpec) -> int:
    """Before and after they are adjusted."""
    return 2 * 4 * SAMPLED_ROWS * spec.vocab_size


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f}"
