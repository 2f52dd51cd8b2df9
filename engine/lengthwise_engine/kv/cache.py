"""The paged KV cache: one tensor that the worker and its transfer process both map.

The rule: the cache is memory and a view of it, nothing more. Which block belongs to whom is the
scheduler's knowledge (`lengthwise_policy`), and who moves bytes is `lengthwise_engine.transfer`.
"""

import mmap
import os
import weakref
from dataclasses import dataclass

import torch

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.layout import KVLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKV:
    """What another process needs to map a CPU cache.

    `file_descriptor` is a number of the process that called `share()`; it has to reach the other
    process by inheritance (`pass_fds`) or over a Unix socket, and stays open as long as the cache.
    """

    file_descriptor: int
    num_bytes: int


class KVCache:
    """Keys and values of all layers.

    `tensor` is [num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]; keys are
    `tensor[:, :, 0]`, values `tensor[:, :, 1]`. A run of consecutive block ids of one layer is one
    contiguous piece of memory, so it can cross the wire without packing.
    """

    def __init__(self, layout: KVLayout, tensor: torch.Tensor, shared: SharedKV) -> None:
        self.layout = layout
        self.tensor = tensor
        self.num_blocks = tensor.shape[1]
        self._shared = shared

    @classmethod
    def allocate(cls, layout: KVLayout, num_blocks: int, device: torch.device) -> "KVCache":
        """Zeroed memory for `num_blocks` blocks in an anonymous file other processes can map.

        The pages are taken from the system when they are first written.
        """
        if device.type != "cpu":
            raise CacheSizeError(f"a KV cache can be allocated on the CPU only, got {device}")
        num_bytes = _num_bytes(layout, num_blocks)
        file_descriptor = os.memfd_create("lengthwise-kv")
        try:
            os.ftruncate(file_descriptor, num_bytes)
            shared = SharedKV(file_descriptor=file_descriptor, num_bytes=num_bytes)
            cache = cls.attach(layout, num_blocks, shared)
        except BaseException:
            os.close(file_descriptor)
            raise
        weakref.finalize(cache, os.close, file_descriptor)
        return cache

    @classmethod
    def attach(cls, layout: KVLayout, num_blocks: int, shared: SharedKV) -> "KVCache":
        """Map a cache that another process allocated with the same layout and block count.

        The mapping does not need the file descriptor afterwards; closing it is the caller's choice.
        """
        expected = _num_bytes(layout, num_blocks)
        if shared.num_bytes != expected:
            raise CacheSizeError(
                f"shared KV cache has {shared.num_bytes} bytes, expected {expected} for"
                f" {num_blocks} blocks of {layout}"
            )
        memory = mmap.mmap(shared.file_descriptor, expected)
        flat = torch.frombuffer(memory, dtype=getattr(torch, layout.dtype))
        shape = (
            layout.num_layers,
            num_blocks,
            2,
            layout.block_size,
            layout.num_kv_heads,
            layout.head_dim,
        )
        return cls(layout, flat.view(shape), shared)

    def share(self) -> SharedKV:
        """What `attach` in another process needs; valid as long as this cache lives."""
        return self._shared


def _num_bytes(layout: KVLayout, num_blocks: int) -> int:
    if num_blocks < 1:
        raise CacheSizeError(f"a KV cache needs at least one block, got {num_blocks}")
    return num_blocks * layout.num_layers * layout.block_bytes
