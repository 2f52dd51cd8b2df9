"""From a checkpoint to a runner ready to compute: the one place that decides which.

Workers call `load_runner` and never ask what kind of model they serve.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from lengthwise_checkpoint.architectures import ModelBackend, is_native
from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.spec import DecoderSpec, ModelSpec
from lengthwise_checkpoint.toy import MODEL_TYPE as TOY
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.foreign_trials import check_isolation
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVDtype
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.memory_budget import MemoryBudget
from lengthwise_engine.models.adapters.room import NO_ADAPTERS, AdapterRoom, AdapterSettings
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import (
    Quantization,
    compute_dtype,
    load_model,
    read_shard,
)
from lengthwise_engine.models.foreign.loader import load_foreign
from lengthwise_engine.models.foreign.skeleton import read_foreign_spec, refuse_settings
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.step import StepModel
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.numerics import (
    Numerics,
    choose_foreign_numerics,
    choose_numerics,
    fall_back,
)
from lengthwise_engine.runner.base import ModelRunner
from lengthwise_engine.runner.graph_recorder import CudaRecorder
from lengthwise_engine.runner.graph_shapes import NO_GRAPHS, GraphPlan
from lengthwise_engine.runner.graphs import StepCounts
from lengthwise_engine.runner.memory import check_graph_memory, loading_weights
from lengthwise_engine.runner.memory_plan import MemoryPlan, MemorySettings
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.tensor_parallel.parallel_model import load_parallel
from lengthwise_engine.tensor_parallel.rank import RankPlan
from lengthwise_engine.tensor_parallel.watch import RankWatch
from lengthwise_engine.toy.asynchronous import AsynchronousToyRunner
from lengthwise_engine.toy.runner import ToyRunner
from lengthwise_engine.toy.settings import refuse_toy_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A runner with the caches it computes over: `shards` describes those of all ranks, `caches`
    are those that this process made, that of its own computing first. `is_invariant` says how it
    computes; `numerics`, unless empty, names with which workers alone it shares requests. `steps`
    is what a runner of real models counts, `files` what a real model's weights may be mapped from,
    `adapters` the room of its adapters.
    """

    runner: ModelRunner
    caches: tuple[KVCache, ...]
    shards: KVShards
    spec: ModelSpec
    fingerprint: str
    is_invariant: bool = False
    numerics: str = ""
    steps: StepCounts = field(default_factory=StepCounts)
    adapters: AdapterRoom | None = None
    ranks: RankWatch | None = None
    files: WeightFiles | None = None

    @property
    def cache(self) -> KVCache:
        """What this process computes over: all KV heads, or those of rank 0."""
        return self.caches[0]

    @property
    def failure(self) -> BaseException | None:
        """Why no step can be computed any more, where that is known without computing one."""
        if self.ranks is not None and self.ranks.failure is not None:
            return self.ranks.failure
        if self.files is not None and self.files.is_changed:
            return CheckpointError(
                f"{self.files.folder}: the weights were written to while they were served; replace"
                " files by new ones (rename), which running workers do not see"
            )
        return None

    def close(self) -> None:
        """End the processes of the other ranks, within seconds."""
        if self.ranks is not None:
            self.ranks.close()


def load_runner(
    checkpoint: Path,
    *,
    device: str,
    num_blocks: int | None = None,
    kv_memory_bytes: int | None = None,
    max_context: int | None = None,
    memory_bytes: int = 0,
    memory_share: float = 0.9,
    block_size: int = 16,
    kv_dtype: KVDtype = "auto",
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
    numerics: Numerics = "fast",
    graphs: GraphPlan = NO_GRAPHS,
    tensor_parallel_size: int = 1,
    expert_parallel: bool = False,
    stall_seconds: float = 5.0,
    model_backend: ModelBackend = "auto",
    adapters: AdapterSettings = NO_ADAPTERS,
) -> LoadedModel:
    """Load a checkpoint folder and give it a KV cache.

    The cache, of `kv_dtype`, has `num_blocks` blocks, or as many as fit into `kv_memory_bytes`, or
    into what the rest leaves of a share of a GPU's memory, or of `memory_bytes`; `max_context` and
    what it holds clamp the context. `dtype` is what real models compute in, see `load_model`, and
    `quantization` what becomes of projections; `numerics` is the promise, `model_backend` whose
    code computes. On a GPU all kernels are compiled and `graphs` captured before this returns. Of
    several ranks (`tensor_parallel_size`) each has a device on GPUs, `kv_memory_bytes` for its KV
    heads, the memory of `graphs`, if `expert_parallel` its own experts, and `stall_seconds` to
    answer the others. Raises `CheckpointError` for what cannot be served, or not by so many ranks,
    `CacheSizeError`, `NumericsError` and `DeviceMemoryError` for what cannot be had, `RankError`.
    """
    config, target = read_config(checkpoint), torch.device(device)
    settings = MemorySettings(
        num_blocks=num_blocks,
        kv_memory_bytes=kv_memory_bytes,
        max_context=max_context,
        graph_memory_bytes=graphs.memory_bytes,
        block_size=block_size,
        kv_dtype=kv_dtype,
    )
    memory = MemoryBudget(target, int(memory_share * memory_bytes), memory_share, settings)
    if config.text("model_type") == TOY:
        refuse_toy_settings(config, tensor_parallel_size, quantization, bool(adapters))
        return _toy(checkpoint, memory, read_toy_spec(config))
    if not is_native(config, model_backend):
        refuse_settings(config, tensor_parallel_size, quantization, bool(adapters))
        return _foreign(config, memory, dtype, numerics)
    logger.info("model: %s, computed by our own code", config.text("model_type"))
    shard = read_shard(checkpoint, quantization, tensor_parallel_size, expert_parallel)
    kind = compute_dtype(shard.whole, target, dtype)
    room = adapters.room(shard, target, kind)
    plan = memory.beside(0 if room is None else room.num_bytes).plan(shard, kind)
    if tensor_parallel_size > 1:
        fall_back(numerics, "sums over several ranks were not shown to be")
        return _parallel(checkpoint, shard, plan, target, room, quantization, stall_seconds, graphs)
    with loading_weights(checkpoint, target):
        model = load_model(checkpoint, target, dtype, quantization, room)
    return _over_weights(checkpoint, *choose_numerics(model, numerics), plan, graphs, room)


def check_servable(checkpoint: Path, model_backend: ModelBackend) -> None:
    """From config.json alone, before there are weights. Errors: CheckpointError."""
    config = read_config(checkpoint)
    if config.text("model_type") != TOY and not is_native(config, model_backend):
        read_foreign_spec(config)


SpecT = TypeVar("SpecT", bound=ModelSpec)


def _clamped(spec: SpecT, plan: MemoryPlan) -> SpecT:
    return replace(spec, context_length=plan.context_length)


def _toy(checkpoint: Path, memory: MemoryBudget, toy: ToySpec) -> LoadedModel:
    plan = memory.plan(toy, torch.float32)
    cache = KVCache.allocate(plan.layout, plan.num_blocks, memory.device)
    make = AsynchronousToyRunner if toy.asynchronous else ToyRunner
    return _one_rank(cache, make(cache, toy), _clamped(toy, plan), model_fingerprint(checkpoint))


def _foreign(
    config: ConfigJson, memory: MemoryBudget, asked: torch.dtype | None, numerics: Numerics
) -> LoadedModel:
    """A model that transformers computes, without graphs."""
    checkpoint, spec = config.path.parent, read_foreign_spec(config)
    logger.info("model: %s, computed by transformers' code", spec.model_type)
    dtype = compute_dtype(spec, memory.device, asked)
    plan = memory.plan(spec, dtype)
    with loading_weights(checkpoint, memory.device):
        model = load_foreign(config, spec, memory.device, dtype)
    check_isolation(model)
    digest = choose_foreign_numerics(model, numerics)
    cache = KVCache.allocate(plan.layout, plan.num_blocks, model.device)
    runner = _torch_runner(model, cache, NO_GRAPHS)
    fingerprint = model_fingerprint(checkpoint, model.digest, is_foreign=True, numerics=digest)
    loaded = _one_rank(cache, runner, _clamped(spec, plan), fingerprint)
    is_invariant = model.attention.invariant
    return replace(loaded, steps=runner.counts, is_invariant=is_invariant, numerics=digest)


def _one_rank(
    cache: KVCache, runner: ModelRunner, spec: ModelSpec, fingerprint: str
) -> LoadedModel:
    shards = KVShards.of(cache)
    return LoadedModel(
        runner=runner, caches=(cache,), shards=shards, spec=spec, fingerprint=fingerprint
    )


def _over_weights(
    checkpoint: Path,
    model: Decoder,
    numerics: str,
    plan: MemoryPlan,
    graphs: GraphPlan,
    adapters: AdapterRoom | None,
) -> LoadedModel:
    cache = KVCache.allocate(plan.layout, plan.num_blocks, model.device)
    runner = _torch_runner(model, cache, graphs)
    fingerprint = _fingerprint(checkpoint, model.spec, model.weights.digest, numerics)
    loaded = _one_rank(cache, runner, _clamped(model.spec, plan), fingerprint)
    return replace(
        loaded,
        steps=runner.counts,
        files=model.weights.files,
        is_invariant=model.attention.invariant,
        numerics=numerics,
        adapters=adapters,
    )


def _torch_runner(model: StepModel, cache: KVCache, graphs: GraphPlan) -> TorchRunner:
    if model.device.type != "cuda":
        return TorchRunner(model, cache)
    check_graph_memory(cache, graphs.memory_bytes, torch.cuda.mem_get_info(model.device)[0])
    runner = TorchRunner(model, cache, recorder=CudaRecorder(model.device), graphs=graphs)
    logger.info("compiled and ran the first steps in %.1f s", runner.warm_up())
    runner.capture_graphs()
    return runner


def _parallel(
    checkpoint: Path,
    shard: ModelShard,
    memory: MemoryPlan,
    device: torch.device,
    adapters: AdapterRoom | None,
    quantization: Quantization,
    stall_seconds: float,
    graphs: GraphPlan,
) -> LoadedModel:
    plan = RankPlan(
        checkpoint=str(checkpoint),
        device_type=device.type,
        dtype=memory.dtype,
        quantization=quantization,
        rank=0,
        size=shard.size,
        num_blocks=memory.num_blocks,
        block_size=memory.layout.block_size,
        stall_seconds=stall_seconds,
        graphs=graphs if device.type == "cuda" else NO_GRAPHS,
        expert_parallel=shard.expert_parallel,
    )
    parallel = load_parallel(plan, adapters)
    return LoadedModel(
        runner=parallel.runner,
        caches=parallel.caches,
        shards=parallel.shards,
        spec=_clamped(shard.whole, memory),
        fingerprint=_fingerprint(checkpoint, shard.whole, parallel.weights.digest),
        steps=parallel.runner.counts,
        adapters=adapters,
        ranks=parallel.watch,
        files=parallel.weights.files,
    )


def _fingerprint(
    checkpoint: Path, spec: DecoderSpec, weights_digest: str, numerics: str = ""
) -> str:
    return model_fingerprint(
        checkpoint, weights_digest, rounded_to=spec.rounded_to, numerics=numerics
    )
