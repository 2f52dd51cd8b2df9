"""From a checkpoint folder to a runner ready to compute: the one place that decides which.

The rule: workers call `load_runner` and never ask what kind of model they serve.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from lengthwise_engine.errors import CacheSizeError, CheckpointError, UnsupportedModel
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.spec import ModelSpec
from lengthwise_engine.runner import ModelRunner
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
) -> LoadedModel:
    """Load a checkpoint folder and give it a KV cache.

    The cache has `num_blocks` blocks, or as many as fit into `kv_memory_bytes` when that is None.
    Raises `CheckpointError` for a checkpoint that cannot be served and `CacheSizeError` for a
    memory budget that does not hold one sequence of the model's full context.
    """
    config_path = checkpoint / "config.json"
    if not config_path.is_file():
        raise CheckpointError(f"{config_path}: not found; expected a Hugging Face checkpoint")
    config = json.loads(config_path.read_text())
    if config["model_type"] != TOY:
        raise UnsupportedModel(f"{config_path}: model_type {config['model_type']!r}")
    spec = read_toy_spec(config)
    layout = spec.kv_layout(block_size=block_size, dtype="float32")
    if num_blocks is None:
        num_blocks = blocks_in_budget(layout, spec.context_length, kv_memory_bytes)
    cache = KVCache.allocate(layout, num_blocks, torch.device(device))
    return LoadedModel(
        runner=ToyRunner(cache, spec),
        cache=cache,
        spec=spec,
        fingerprint=model_fingerprint(checkpoint),
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
