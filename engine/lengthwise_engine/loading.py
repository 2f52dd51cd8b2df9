"""From a checkpoint to a runner ready to compute: the one place that decides which.

The rule: workers call `load_runner` and never ask what kind of model they serve.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.config_json import ConfigJson
from lengthwise_engine.models.loading import load_model
from lengthwise_engine.models.spec import ModelSpec
from lengthwise_engine.runner import ModelRunner
from lengthwise_engine.torch_runner import TorchRunner
from lengthwise_engine.toy.runner import ToyRunner
from lengthwise_engine.toy.spec import MODEL_TYPE as TOY
from lengthwise_engine.toy.spec import read_toy_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A runner with the cache it computes over."""

    runner: ModelRunner
    cache: KVCache
    spec: ModelSpec
    fingerprint: str


def load_runner(
    checkpoint: Path,
    *,
    device: str,
    num_blocks: int | None,
    kv_memory_bytes: int,
    block_size: int = 16,
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load a checkpoint folder and give it a KV cache.

    The cache has `num_blocks` blocks, or as many as fit into `kv_memory_bytes` when that is None.
    `dtype` is the type real models compute in, see `load_model`. Raises `CheckpointError` for a
    checkpoint that cannot be served and `CacheSizeError` for a memory budget that does not hold one
    sequence of the model's full context.
    """
    config = ConfigJson.read(checkpoint / "config.json")
    target = torch.device(device)

    def allocate(spec: ModelSpec, dtype: torch.dtype) -> KVCache:
        layout = spec.kv_layout(block_size=block_size, dtype=str(dtype).removeprefix("torch."))
        count = num_blocks or blocks_in_budget(layout, spec.context_length, kv_memory_bytes)
        return KVCache.allocate(layout, count, target)

    runner: ModelRunner
    spec: ModelSpec
    if config.text("model_type") == TOY:
        spec = toy = read_toy_spec(config)
        cache = allocate(toy, torch.float32)
        runner = ToyRunner(cache, toy)
    else:
        model = load_model(checkpoint, target, dtype)
        spec = model.spec
        cache = allocate(spec, model.dtype)
        runner = TorchRunner(model, cache)
    return LoadedModel(
        runner=runner, cache=cache, spec=spec, fingerprint=model_fingerprint(checkpoint)
    )


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
