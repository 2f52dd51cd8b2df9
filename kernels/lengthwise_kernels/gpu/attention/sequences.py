"""A step's sequences as arrays of the host, and the decode rows among them."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_kernels.attention_plan import AttentionBatch, AttentionSpec
from lengthwise_kernels.gpu.attention.decode import tile_keys

Ints = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSequences:
    """Arrays with a number for each sequence, and all their blocks one after the other."""

    lengths: Ints
    firsts: Ints
    starts: Ints
    ends: Ints
    table_starts: Ints
    tables: Ints

    @classmethod
    def of(cls, batch: AttentionBatch) -> "StepSequences":
        lengths, starts = np.array(batch.query_lengths), np.array(batch.starts)
        ends = starts + lengths
        counts = -(-ends // batch.block_size)
        used = (ids[:count] for ids, count in zip(batch.block_ids, counts.tolist(), strict=True))
        tables = np.fromiter(chain.from_iterable(used), dtype=np.int32, count=int(counts.sum()))
        return cls(
            lengths=lengths,
            firsts=np.cumsum(lengths) - lengths,
            starts=starts,
            ends=ends,
            table_starts=np.cumsum(counts) - counts,
            tables=tables,
        )

    def whole_tiles(self, chunks: Ints) -> list[tuple[int, int, int, int]]:
        """Each of these sequences as one tile."""
        columns = (self.firsts, self.lengths, self.starts, self.table_starts)
        return list(zip(*(column[chunks].tolist() for column in columns), strict=True))


def row_arrays(
    name: str,
    step: StepSequences,
    rows: Ints,
    places: Ints,
    windows: Iterable[int | None],
    spec: AttentionSpec,
    prefixes: Ints | None,
) -> dict[str, Ints]:
    """The arrays of `DecodeRows` of these sequences' last tokens, padded to as many as there are
    `places`, where results are written, zeros of padding too.

    With `prefixes` a row does not see its first so many keys in layers without a window.
    """
    ends, count = step.ends[rows], len(places)
    arrays = {
        f"{name}.queries": places.astype(np.int32),
        f"{name}.ends": padded(ends, count),
        f"{name}.table_starts": padded(step.table_starts[rows], count),
    }
    tile = tile_keys(spec.head_dim)
    for window in windows:
        begins = np.zeros_like(ends) if window is None else np.maximum(ends - window, 0)
        if prefixes is not None and window is None:
            begins = prefixes
        tiles = np.where(ends > begins, -(-ends // tile) - begins // tile, 0)
        first_tiles = np.zeros(count + 1, dtype=np.int32)
        first_tiles[1:] = tiles.sum()
        first_tiles[1 : len(rows) + 1] = np.cumsum(tiles)
        arrays[f"{name}.begins.{window}"] = padded(begins, count)
        arrays[f"{name}.first_tiles.{window}"] = first_tiles
    return arrays


def padded(array: Ints, count: int | None) -> Ints:
    """As int32, with zeros up to `count` rows (None: as it is)."""
    result = np.zeros((count or len(array), *array.shape[1:]), dtype=np.int32)
    result[: len(array)] = array
    return result
