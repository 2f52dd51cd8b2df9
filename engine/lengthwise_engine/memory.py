"""What to do when a device's memory is full, as a message: how much would fit, and which setting to
lower."""

from collections.abc import Sequence

import torch

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.runner import SequenceChunk


def explain_out_of_memory(
    error: torch.OutOfMemoryError, cache: KVCache, chunks: Sequence[SequenceChunk]
) -> CacheSizeError:
    """Of a step of `chunks` beside `cache`."""
    device = cache.tensor.device
    block_bytes = cache.layout.num_layers * cache.layout.block_bytes
    tokens = sum(len(chunk.token_ids) for chunk in chunks)
    free = _free_bytes(device)
    # What the step lacks is not known exactly: an eighth of the cache is far more than any step.
    fitting = cache.num_blocks - cache.num_blocks // 8
    return CacheSizeError(
        f"no memory on {device} for a step of {tokens} tokens beside {cache.num_blocks} KV blocks"
        f" of {block_bytes} bytes ({free} bytes are free): {error}; lower kv_memory_bytes or"
        f" num_blocks (to {fitting} blocks, say), graph_memory_bytes, or the tokens of a step"
    )


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
