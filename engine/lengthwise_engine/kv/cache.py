"""The paged KV cache: one tensor that the worker and its transfer process both map.

The cache is memory and a view of it, nothing more. Which block belongs to which request is the
scheduler's knowledge (`lengthwise_policy`); bytes are moved by `lengthwise_engine.transfer`.
"""

import fcntl
import mmap
import os
import warnings
import weakref
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cuda_ipc import open_cuda, share_cuda
from lengthwise_engine.kv.layout import KVLayout

MEMORY_NAME: Final = "lengthwise-kv"
"""What the system calls a cache's memory on the CPU (`/proc/PID/fd`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKV:
    """What another process needs to map a cache: a file descriptor for one on the CPU, a CUDA IPC
    handle for one on a GPU.

    `file_descriptor` is a number of the process that called `share()`; it has to reach the other
    process by inheritance (`pass_fds`) or over a Unix socket, and stays open as long as the cache.
    `cuda_handle` is text for `attach` alone.
    """

    num_bytes: int
    file_descriptor: int | None = None
    cuda_handle: str | None = None


class KVCache:
    """Keys and values of all layers.

    `tensor` is [num_layers, num_blocks, 2, block_size, num_kv_heads, head_width]; keys are
    `tensor[:, :, 0]`, values `tensor[:, :, 1]`. A run of consecutive block ids of one layer is one
    contiguous piece of memory, so it can cross the wire without packing.
    """

    def __init__(
        self, layout: KVLayout, tensor: torch.Tensor, file_descriptor: int | None = None
    ) -> None:
        self.layout = layout
        self.tensor = tensor
        self.num_blocks = tensor.shape[1]
        self._file_descriptor = file_descriptor

    @classmethod
    def allocate(cls, layout: KVLayout, num_blocks: int, device: torch.device) -> "KVCache":
        """Zeroed memory for `num_blocks` blocks that other processes can map.

        On the CPU it is an anonymous file, whose pages are taken from the system when they are
        first written. Raises `CacheSizeError` when a GPU has not enough memory.
        """
        num_bytes = cache_bytes(layout, num_blocks)
        if device.type == "cuda":
            return cls(layout, _allocate_cuda(layout, num_blocks, num_bytes, device))
        if device.type != "cpu":
            raise CacheSizeError(f"a KV cache lies on the CPU or a CUDA device, got {device}")
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        file_descriptor = os.memfd_create(MEMORY_NAME, flags)
        try:
            os.ftruncate(file_descriptor, num_bytes)
            # Whoever maps it need not fear that it shrinks, which would kill a reader.
            fcntl.fcntl(file_descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            shared = SharedKV(num_bytes=num_bytes, file_descriptor=file_descriptor)
            cache = cls.attach(layout, num_blocks, shared)
            cache._file_descriptor = file_descriptor
        except BaseException:
            os.close(file_descriptor)
            raise
        weakref.finalize(cache, os.close, file_descriptor)
        return cache

    @classmethod
    def attach(
        cls,
        layout: KVLayout,
        num_blocks: int,
        shared: SharedKV,
        *,
        is_read_only: bool = False,
        device: torch.device | None = None,
    ) -> "KVCache":
        """Map a cache that another process allocated with the same layout and block count.

        The mapping does not need the file descriptor afterwards; closing it is the caller's choice.
        Memory on the CPU that `is_read_only` kills the process that writes to it. `device` is where
        to reach a CUDA cache from; None: the device of the same number as in the other process.
        """
        expected = cache_bytes(layout, num_blocks)
        if shared.num_bytes != expected:
            raise CacheSizeError(
                f"shared KV cache has {shared.num_bytes} bytes, expected {expected} for"
                f" {num_blocks} blocks of {layout}"
            )
        if shared.cuda_handle is not None:
            flat = open_cuda(shared.cuda_handle, getattr(torch, layout.dtype), device)
        elif shared.file_descriptor is not None:
            flat = _map(
                shared.file_descriptor, expected, getattr(torch, layout.dtype), is_read_only
            )
        else:
            raise CacheSizeError("a shared KV cache has neither file descriptor nor CUDA handle")
        return cls(layout, flat.view(_shape(layout, num_blocks)))

    def share(self) -> SharedKV:
        """What `attach` in another process needs; valid as long as this cache lives."""
        num_bytes = cache_bytes(self.layout, self.num_blocks)
        if self.tensor.is_cuda:
            return SharedKV(num_bytes=num_bytes, cuda_handle=share_cuda(self.tensor))
        return SharedKV(num_bytes=num_bytes, file_descriptor=self._file_descriptor)


def _allocate_cuda(
    layout: KVLayout, num_blocks: int, num_bytes: int, device: torch.device
) -> torch.Tensor:
    try:
        dtype = getattr(torch, layout.dtype)
        return torch.zeros(_shape(layout, num_blocks), dtype=dtype, device=device)
    except torch.cuda.OutOfMemoryError as error:
        free, _ = torch.cuda.mem_get_info(device)
        fitting = free // (layout.num_layers * layout.block_bytes)
        raise CacheSizeError(
            f"{num_blocks} KV blocks need {num_bytes} bytes of {device}, {free} are free: at most"
            f" {fitting} blocks fit; lower kv_memory_bytes or num_blocks"
        ) from error


def _map(
    file_descriptor: int, num_bytes: int, dtype: torch.dtype, is_read_only: bool
) -> torch.Tensor:
    access = mmap.ACCESS_READ if is_read_only else mmap.ACCESS_WRITE
    memory = mmap.mmap(file_descriptor, num_bytes, access=access)
    with warnings.catch_warnings():
        # torch warns that it cannot prevent writes; the system does.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(memory, dtype=dtype)


def _shape(layout: KVLayout, num_blocks: int) -> tuple[int, ...]:
    return (
        layout.num_layers,
        num_blocks,
        2,
        layout.block_size,
        layout.num_kv_heads,
        layout.head_width,
    )


def cache_bytes(layout: KVLayout, num_blocks: int) -> int:
    """Raises CacheSizeError for less than one block."""
    if num_blocks < 1:
        raise CacheSizeError(f"a KV cache needs at least one block, got {num_blocks}")
    return num_blocks * layout.num_layers * layout.block_bytes
