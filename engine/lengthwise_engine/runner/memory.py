"""A device's memory: whether everything fits, and if not how much would and which setting to lower.

What is known when a worker starts is reported then, not under a request.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from lengthwise_checkpoint.gguf.model import is_gguf
from lengthwise_engine.errors import DeviceMemoryError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.runner.base import SequenceChunk


@contextmanager
def loading_weights(checkpoint: Path, device: torch.device) -> Iterator[None]:
    """Raises `DeviceMemoryError` when the weights of `checkpoint` do not fit."""
    files = [checkpoint] if is_gguf(checkpoint) else checkpoint.glob("*.safetensors")
    stored = sum(file.stat().st_size for file in files if file.exists())
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if device.type == "cpu" and stored > machine:
        raise DeviceMemoryError(
            f"{checkpoint}: the weights ({stored} bytes as stored) do not fit this machine's memory"
            f" of {machine} bytes; use a smaller model, or a GPU"
        )
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{checkpoint}: the weights ({stored} bytes as stored) do not fit {device}, which has"
            f" {_free(device)} bytes left: {error}; use quantization: fp8, a larger"
            " tensor_parallel_size, a smaller model or a larger GPU"
        ) from error


def check_graph_memory(cache: KVCache, graph_memory_bytes: int, free_bytes: int) -> None:
    """Raise `DeviceMemoryError` unless what `cache` has left of its device holds the graphs."""
    if free_bytes >= graph_memory_bytes:
        return
    block_bytes = _block_bytes(cache)
    fitting = max(0, cache.num_blocks - -(-(graph_memory_bytes - free_bytes) // block_bytes))
    raise DeviceMemoryError(
        f"graph_memory_bytes is {graph_memory_bytes}, but weights and {cache.num_blocks} KV blocks"
        f" leave {free_bytes} bytes of {cache.tensor.device}: at most {fitting} blocks fit beside"
        f" the graphs; lower kv_memory_bytes (to {fitting * block_bytes}), num_blocks or"
        " graph_memory_bytes"
    )


def step_out_of_memory(
    error: torch.OutOfMemoryError, cache: KVCache, chunks: Sequence[SequenceChunk]
) -> DeviceMemoryError:
    """What to raise when a step of `chunks` does not fit beside `cache`."""
    block_bytes = _block_bytes(cache)
    tokens = sum(len(chunk.token_ids) for chunk in chunks)
    # How much the step lacks is not known; an eighth of the cache is more than steps take.
    fitting = cache.num_blocks - cache.num_blocks // 8
    return DeviceMemoryError(
        f"no memory on {cache.tensor.device} for a step of {tokens} tokens beside"
        f" {cache.num_blocks} KV blocks: {error}; {fitting} blocks leave it"
        f" {(cache.num_blocks - fitting) * block_bytes} bytes: lower kv_memory_bytes (to"
        f" {fitting * block_bytes}), num_blocks or graph_memory_bytes"
    )


def _block_bytes(cache: KVCache) -> int:
    return cache.layout.num_layers * cache.layout.block_bytes


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
