"""Single queries over a paged history, and the half blocks that histories are read as.

The keys of block b are half 2 b, its values half 2 b + 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_kernels.reference.kv8 import dequantise_heads

_TILE_KEYS: Final = 4096
"""Or nearly: 32 rows of 2,064 keys, 2 heads of 64, in float32 on one core of an EPYC take 30 ms in
tiles of one row, 23 in tiles of two, 29 of four, 26 of eight; floats take 27."""


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """Keys [first_key, end) of `blocks` are seen, counted from the first of these blocks."""

    query: int
    blocks: Sequence[int]
    first_key: int
    end: int


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Single queries of sequences of similar length; `mask` [rows, 1, 1, keys] adds to scores."""

    rows: torch.Tensor
    halves: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(
        cls,
        rows: Sequence[DecodeRow],
        num_keys: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "DecodeGroup":
        """`num_keys`: to which the keys of every row are filled up."""
        tables = [filled(row.blocks, -(-num_keys // block_size)) for row in rows]
        positions = torch.arange(num_keys, device=device)
        first = torch.tensor([[row.first_key] for row in rows], device=device)
        end = torch.tensor([[row.end] for row in rows], device=device)
        hidden = (positions < first) | (positions >= end)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
        mask.masked_fill_(hidden, float("-inf"))
        return cls(
            rows=torch.tensor([row.query for row in rows], device=device),
            halves=half_blocks(tables, device).flatten(1),
            mask=mask[:, None, None],
        )

    def attend(
        self,
        queries: torch.Tensor,
        layer: torch.Tensor,
        output: torch.Tensor,
        attend: "Callable[[torch.Tensor, DecodeGroup], torch.Tensor]",
    ) -> None:
        """Fills the group's rows of `output`. Over a cache of 8 bits in parts whose keys are still
        in a core's cache when they are attended to: each row's result is that of the whole."""
        num_rows, num_keys = len(self.rows), self.mask.shape[-1]
        step = num_rows if layer.is_floating_point() else max(1, round(_TILE_KEYS / num_keys))
        own = queries[self.rows]
        if step >= num_rows:
            output[self.rows] = attend(own, self)
            return
        halves = self.halves.view(2, num_rows, -1)
        results = []
        for at in range(0, num_rows, step):
            part = slice(at, at + step)
            group = DecodeGroup(self.rows[part], halves[:, part].flatten(1), self.mask[part])
            results.append(attend(own[part], group))
        output[self.rows] = torch.cat(results)


def filled(blocks: Sequence[int], count: int) -> list[int]:
    """Padding repeats a sequence's last block, which masks hide: none reads another's memory."""
    return [*blocks, *[blocks[-1]] * (count - len(blocks))]


def half_blocks(tables: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """[2, rows, blocks]: half blocks of keys and of values."""
    keys = 2 * torch.tensor(tables, device=device)
    return torch.stack((keys, keys + 1))


def gather(
    layer: torch.Tensor, halves: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the half blocks [2, ...], each [num blocks, block_size, heads, dim], in
    the `dtype` of queries."""
    cache = layer.flatten(0, 1)
    if layer.dtype != torch.int8:
        return cache.index_select(0, halves[0]), cache.index_select(0, halves[1])
    both = dequantise_heads(cache.index_select(0, halves.flatten()), dtype)
    keys, values = both.chunk(2)
    return keys, values
