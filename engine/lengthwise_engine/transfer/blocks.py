"""Blocks of the cache as rows of bytes, and how they enter and leave messages.

The rule: row `layer * num_blocks + block` is one block of one layer. A piece is a list of rows in
wire order; both ends cut it into the same messages, knowing nothing of each other but its size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
import xxhash

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.transfer.base import Piece

MESSAGE_BYTES: Final = 4 * 2**20
# Gathered, hashed and scattered this much at a time, so that the second pass finds it in L2.
_CHUNK_BYTES: Final = 256 * 2**10
_WIDEST_FIRST: Final = (torch.complex128, torch.int64, torch.int32, torch.int16, torch.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpan:
    """Rows `start` to `stop` of a piece: what one message carries."""

    start: int
    stop: int
    is_last: bool


class BlockRows:
    """A view of a cache as [num_layers * num_blocks, elements of one block]."""

    def __init__(self, cache: KVCache) -> None:
        self.block_bytes = cache.layout.block_bytes
        self.rows_per_message = max(1, MESSAGE_BYTES // self.block_bytes)
        self._rows_per_chunk = max(1, _CHUNK_BYTES // self.block_bytes)
        self._num_blocks = cache.num_blocks
        # Moved as the widest elements there are: index_copy_ of 64 KiB rows takes 0.14 s/GB as
        # complex128 and 0.16 as int64 (Xeon, one thread); bytes one by one take much longer.
        wide = next(dtype for dtype in _WIDEST_FIRST if self.block_bytes % dtype.itemsize == 0)
        rows = cache.tensor.view(cache.layout.num_layers * cache.num_blocks, -1)
        self._rows = rows.view(torch.uint8).view(wide)

    def row_ids(self, piece: Piece) -> torch.Tensor:
        """The rows of a piece in wire order; int64 on the CPU."""
        layers = torch.arange(piece.first_layer, piece.first_layer + piece.num_layers)
        blocks = torch.tensor(piece.block_ids)
        return (layers[:, None] * self._num_blocks + blocks[None, :]).flatten()

    def spans(self, num_rows: int) -> Iterator[RowSpan]:
        """How a piece of `num_rows` rows is cut into messages."""
        for start in range(0, num_rows, self.rows_per_message):
            stop = min(start + self.rows_per_message, num_rows)
            yield RowSpan(start=start, stop=stop, is_last=stop == num_rows)

    def new_buffer(self) -> torch.Tensor:
        """Memory for one message, as rows."""
        return torch.empty(
            (self.rows_per_message, self._rows.shape[1]),
            dtype=self._rows.dtype,
            device=self._rows.device,
        )

    def contiguous(self, row_ids: torch.Tensor) -> torch.Tensor | None:
        """The rows where they lie, if they follow each other in memory; else None."""
        if bool((row_ids.diff() == 1).all()):
            return self._rows.narrow(0, int(row_ids[0]), len(row_ids))
        return None

    def chunks(self, num_rows: int) -> Iterator[slice]:
        for start in range(0, num_rows, self._rows_per_chunk):
            yield slice(start, min(start + self._rows_per_chunk, num_rows))

    def gather(self, row_ids: torch.Tensor, buffer: torch.Tensor) -> None:
        torch.index_select(self._rows, 0, row_ids.to(self._rows.device), out=buffer)

    def scatter(self, row_ids: torch.Tensor, buffer: torch.Tensor) -> None:
        self._rows.index_copy_(0, row_ids.to(self._rows.device), buffer)
        if self._rows.is_cuda:
            # "Nothing writes any more" must be true when this returns.
            torch.cuda.current_stream().synchronize()


def update_checksum(checksum: xxhash.xxh3_64, rows: torch.Tensor) -> None:
    """Add the rows' bytes. Rows on a GPU are copied to the host for it."""
    checksum.update(rows.view(torch.uint8).cpu().numpy().data)
