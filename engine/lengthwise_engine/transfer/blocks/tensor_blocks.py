"""Caches moved by tensor operations: those on accelerators, and those of several ranks.

Of a head that several ranks hold, the first rank's copy is sent, and every rank's is
written. Work on an accelerator is issued on the stream of the buffer it fills or empties and waited
for there, so links never wait for each other.

What checksums cost on a GPU: a kernel reads every byte once more, and 8 bytes of each 32 KiB cross
to pinned host memory to be hashed by the link's threads; no stream of the model waits for it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import xxhash

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import HeadShard
from lengthwise_engine.transfer.base import Piece
from lengthwise_engine.transfer.blocks.base import Buffer, Gate, full_message_bytes, message_sizes
from lengthwise_kernels.dispatch import digest, pack_blocks, unpack_blocks


@dataclass(frozen=True, slots=True)
class _Shard:
    """One rank's cache: [1, num_layers * num_blocks, 2 * block_size, numbers of its heads]."""

    rows: torch.Tensor
    begin: int  # its first number among those of all heads
    end: int
    is_first_holder: bool


class TensorBlocks:
    """A message is the rows it names, one for each block of a layer, on the first rank's device."""

    def __init__(self, layout: KVLayout, caches: Sequence[KVCache]) -> None:
        """`caches` are those of all ranks, in their order."""
        self._block_bytes = layout.block_bytes
        self._num_blocks = caches[0].num_blocks
        self._message_bytes = full_message_bytes(self._block_bytes)
        self._width = layout.num_kv_heads * layout.head_width
        self._tokens = 2 * layout.block_size
        self._dtype = caches[0].tensor.dtype
        self._device = caches[0].tensor.device
        self._shards = [
            _shard(cache, HeadShard(rank=rank, size=len(caches), num_kv_heads=layout.num_kv_heads))
            for rank, cache in enumerate(caches)
        ]

        if self._device.type == "cuda":
            self._compile()

    def _compile(self) -> None:
        """Kernels are compiled when they first run, which must not be during a transfer. The cache
        is in use: it is read here, and what is written is no part of it."""
        for shard in self._shards:
            with _on(shard.rows.device):
                first = torch.zeros(1, dtype=torch.int64, device=shard.rows.device)
                packed = pack_blocks(shard.rows, first)
                # Triton compiles apart what is a multiple of 16.
                num_rows = 16 if shard.rows.shape[1] % 16 == 0 else 15
                scratch = shard.rows.new_empty(1, num_rows, *shard.rows.shape[2:])
                unpack_blocks(packed, first, scratch)
                digest(packed.flatten().view(torch.int64))

    def new_buffer(self) -> Buffer:
        return Buffer.allocate(self._message_bytes, self._device)

    def message_sizes(self, num_bytes: int) -> list[int]:
        return message_sizes(num_bytes, self._block_bytes)

    def messages(self, piece: Piece) -> list[torch.Tensor]:
        layers = torch.arange(piece.first_layer, piece.first_layer + piece.num_layers)
        rows = layers[:, None] * self._num_blocks + torch.tensor(piece.block_ids)[None, :]
        on_device = rows.flatten().to(self._device)
        return list(torch.split(on_device, self._message_bytes // self._block_bytes))

    def pack(
        self, message: torch.Tensor, buffer: Buffer, checksum: xxhash.xxh3_64 | None = None
    ) -> torch.Tensor:
        memory = buffer.tensor[: len(message) * self._block_bytes]
        with buffer.used():
            for shard in self._shards:
                if not shard.is_first_holder:
                    continue
                with _on(shard.rows.device):
                    (packed,) = pack_blocks(shard.rows, message.to(shard.rows.device))
                if len(self._shards) == 1:
                    memory = packed.flatten().view(torch.uint8)
                else:
                    self._whole(memory)[:, :, shard.begin : shard.end].copy_(packed)
        buffer.wait()
        if checksum is not None:
            buffer.check(memory, checksum)
        return memory

    def unpack(
        self,
        message: torch.Tensor,
        memory: torch.Tensor,
        buffer: Buffer,
        checksum: xxhash.xxh3_64,
        gate: Gate,
    ) -> None:
        buffer.check(memory, checksum)
        whole = self._whole(memory)
        with gate.lock:
            if not gate.is_open:
                return
            with buffer.used():
                for shard in self._shards:
                    heads = whole[:, :, shard.begin : shard.end].contiguous()
                    device = shard.rows.device
                    with _on(device):
                        unpack_blocks(heads.to(device)[None], message.to(device), shard.rows)
                    if device != self._device:
                        torch.cuda.current_stream(device).synchronize()
            buffer.wait()

    def digest(self, message: torch.Tensor, buffer: Buffer, checksum: xxhash.xxh3_64) -> None:
        self.pack(message, buffer, checksum)

    def _whole(self, memory: torch.Tensor) -> torch.Tensor:
        """These bytes as blocks of all heads: [num_blocks, 2 * block_size, numbers]."""
        return memory.view(self._dtype).view(-1, self._tokens, self._width)


def _shard(cache: KVCache, heads: HeadShard) -> _Shard:
    layout = cache.layout
    begin = heads.first_head * layout.head_width
    before = HeadShard(
        rank=max(0, heads.rank - 1), size=heads.size, num_kv_heads=heads.num_kv_heads
    )
    return _Shard(
        rows=cache.tensor.view(
            1, -1, 2 * layout.block_size, layout.num_kv_heads * layout.head_width
        ),
        begin=begin,
        end=begin + heads.num_heads * layout.head_width,
        is_first_holder=heads.rank == 0 or before.first_head != heads.first_head,
    )


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Kernels run on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
