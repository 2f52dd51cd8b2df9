"""From a checkpoint to a runner ready to compute: the one place that decides which.

Workers call `load_runner` and never ask what kind of model they serve.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.spec import DecoderSpec, ModelSpec
from lengthwise_checkpoint.toy import MODEL_TYPE as TOY
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import (
    Quantization,
    compute_dtype,
    load_model,
    read_spec,
)
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.base import ModelRunner
from lengthwise_engine.runner.graph_recorder import CudaRecorder
from lengthwise_engine.runner.graphs import StepCounts
from lengthwise_engine.runner.memory import check_graph_memory, loading_weights
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.tensor_parallel.parallel_model import load_parallel
from lengthwise_engine.tensor_parallel.rank import RankPlan
from lengthwise_engine.tensor_parallel.watch import RankWatch
from lengthwise_engine.toy.asynchronous import AsynchronousToyRunner
from lengthwise_engine.toy.runner import ToyRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A runner with the caches it computes over: `shards` describes those of all ranks, `caches`
    are those that this process made, that of its own computing first. `steps` is what a runner of
    real models counts.
    """

    runner: ModelRunner
    caches: tuple[KVCache, ...]
    shards: KVShards
    spec: ModelSpec
    fingerprint: str
    steps: StepCounts = field(default_factory=StepCounts)
    ranks: RankWatch | None = None

    @property
    def cache(self) -> KVCache:
        """What this process computes over: all KV heads, or those of rank 0."""
        return self.caches[0]

    @property
    def failure(self) -> BaseException | None:
        """Why no step can be computed any more, where that is known without computing one."""
        return None if self.ranks is None else self.ranks.failure

    def close(self) -> None:
        """End the processes of the other ranks, within seconds."""
        if self.ranks is not None:
            self.ranks.close()


@dataclass(frozen=True, slots=True)
class _CacheBudget:
    """How large a cache becomes: `num_blocks`, or when that is None what `memory_bytes` hold."""

    num_blocks: int | None
    memory_bytes: int
    block_size: int

    def layout(self, spec: ModelSpec, dtype: torch.dtype) -> KVLayout:
        name = str(dtype).removeprefix("torch.")
        return KVLayout.of(spec, block_size=self.block_size, dtype=name)

    def count_blocks(self, spec: ModelSpec, layout: KVLayout) -> int:
        return self.num_blocks or blocks_in_budget(layout, spec.context_length, self.memory_bytes)

    def allocate(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> KVCache:
        layout = self.layout(spec, dtype)
        return KVCache.allocate(layout, self.count_blocks(spec, layout), device)


def load_runner(
    checkpoint: Path,
    *,
    device: str,
    num_blocks: int | None,
    kv_memory_bytes: int,
    block_size: int = 16,
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
    graph_memory_bytes: int = 0,
    tensor_parallel_size: int = 1,
    stall_seconds: float = 5.0,
) -> LoadedModel:
    """Load a checkpoint folder and give it a KV cache.

    The cache has `num_blocks` blocks, or as many as fit into `kv_memory_bytes` when that is None.
    `dtype` is the type real models compute in, see `load_model`, and `quantization` what becomes of
    their projections. On a GPU every kernel is compiled before this returns, and steps that come
    again are replayed from CUDA graphs of up to `graph_memory_bytes`.

    With a `tensor_parallel_size` of n, real models are computed by n ranks, on GPUs with a device
    each, without graphs: `kv_memory_bytes` is what each of them has for its KV heads, and one that
    keeps the others waiting for `stall_seconds` is lost.

    Raises `CheckpointError` for a checkpoint that cannot be served, or not by so many ranks,
    `CacheSizeError` for a memory budget that does not hold one sequence of the model's full
    context, `DeviceMemoryError` for a device that does not hold all of it, and `RankError` when a
    rank cannot be started.
    """
    config, target = read_config(checkpoint), torch.device(device)
    budget = _CacheBudget(num_blocks, kv_memory_bytes, block_size)
    if config.text("model_type") == TOY:
        toy = _toy_spec(config, tensor_parallel_size, quantization)
        cache = budget.allocate(toy, torch.float32, target)
        toy_runner = AsynchronousToyRunner if toy.asynchronous else ToyRunner
        return _one_rank(cache, toy_runner(cache, toy), toy, model_fingerprint(checkpoint))
    if tensor_parallel_size == 1:
        with loading_weights(checkpoint, target):
            model = load_model(checkpoint, target, dtype, quantization)
        cache = budget.allocate(model.spec, model.dtype, target)
        runner = _torch_runner(model, cache, graph_memory_bytes)
        fingerprint = _fingerprint(checkpoint, model.spec, model.weights.digest)
        return _one_rank(cache, runner, model.spec, fingerprint, runner.counts)
    shard = ModelShard(whole=read_spec(checkpoint, quantization), size=tensor_parallel_size)
    kind = compute_dtype(shard.whole, target, dtype)
    return _all_ranks(checkpoint, shard, budget, target, kind, quantization, stall_seconds)


def _toy_spec(config: ConfigJson, tensor_parallel_size: int, quantization: Quantization) -> ToySpec:
    if tensor_parallel_size > 1:
        message = "the toy model has one rank only; set tensor_parallel_size to 1"
        raise config.unsupported("model_type", message)
    if quantization != "none":
        message = "the toy model has no projections; set quantization to none"
        raise config.unsupported("model_type", message)
    return read_toy_spec(config)


def _one_rank(
    cache: KVCache,
    runner: ModelRunner,
    spec: ModelSpec,
    fingerprint: str,
    steps: StepCounts | None = None,
) -> LoadedModel:
    return LoadedModel(
        runner=runner,
        caches=(cache,),
        shards=KVShards.of(cache),
        spec=spec,
        fingerprint=fingerprint,
        steps=steps or StepCounts(),
    )


def _torch_runner(model: Decoder, cache: KVCache, graph_memory_bytes: int) -> TorchRunner:
    if model.device.type != "cuda":
        return TorchRunner(model, cache)
    check_graph_memory(cache, graph_memory_bytes, torch.cuda.mem_get_info(model.device)[0])
    recorder = CudaRecorder(model.device) if graph_memory_bytes else None
    runner = TorchRunner(model, cache, recorder=recorder, graph_memory_bytes=graph_memory_bytes)
    logger.info("compiled and ran the first steps in %.1f s", runner.warm_up())
    return runner


def _all_ranks(
    checkpoint: Path,
    shard: ModelShard,
    budget: _CacheBudget,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization,
    stall_seconds: float,
) -> LoadedModel:
    layout = budget.layout(shard.part, dtype)
    plan = RankPlan(
        checkpoint=str(checkpoint),
        device_type=device.type,
        dtype=layout.dtype,
        quantization=quantization,
        rank=0,
        size=shard.size,
        num_blocks=budget.count_blocks(shard.whole, layout),
        block_size=layout.block_size,
        stall_seconds=stall_seconds,
    )
    parallel = load_parallel(plan)
    return LoadedModel(
        runner=parallel.runner,
        caches=parallel.caches,
        shards=parallel.shards,
        spec=shard.whole,
        fingerprint=_fingerprint(checkpoint, shard.whole, parallel.weights_digest),
        steps=parallel.runner.counts,
        ranks=parallel.watch,
    )


def _fingerprint(checkpoint: Path, spec: DecoderSpec, weights_digest: str) -> str:
    return model_fingerprint(checkpoint, weights_digest, rounded_to_fp8=spec.projections == "fp8")


def blocks_in_budget(layout: KVLayout, context_length: int, kv_memory_bytes: int) -> int:
    """How many blocks of all layers fit, at least one full context's worth."""
    block_bytes = layout.num_layers * layout.block_bytes
    num_blocks = kv_memory_bytes // block_bytes
    needed = layout.num_blocks_for(context_length)
    if num_blocks < needed:
        raise CacheSizeError(
            f"{kv_memory_bytes} bytes hold {num_blocks} KV blocks, but one sequence of"
            f" {context_length} tokens needs {needed} ({needed * block_bytes} bytes);"
            " give the cache more memory or set the number of blocks"
        )
    return num_blocks
