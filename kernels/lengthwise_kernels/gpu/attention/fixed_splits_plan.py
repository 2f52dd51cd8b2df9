"""A step's attention by `split_attention`: all of its queries, in chunks or single, go one way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from lengthwise_kernels.attention_plan import (
    AttentionBatch,
    AttentionLayout,
    AttentionSpec,
    PaddedShape,
    StepAttention,
)
from lengthwise_kernels.gpu.attention.fixed_splits import (
    SPLIT_KEYS,
    TILE_ROWS,
    SplitTiles,
    split_attention,
)
from lengthwise_kernels.gpu.attention.prefill import cut_tiles
from lengthwise_kernels.gpu.attention.sequences import Ints, StepSequences, padded

_LEAST_PROGRAMS: Final = 256
_PROGRAMS_PER_QUERY: Final = 4
"""For single queries: a long one alone, and many of some 2,000 keys, have a program for each split.
More would have a GPU busy already; in CUDA graphs those that are not needed cost 2 us or less."""


@dataclass(frozen=True, slots=True)
class _SplitPlan:
    splits: SplitTiles

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        out = torch.empty_like(queries)
        split_attention(queries, layer, self.splits, scale, out)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _SplitForm:
    """How many programs compute the step, and its sampled tokens alone (None: all are)."""

    block_size: int
    windows: tuple[int | None, ...]
    num_programs: int
    last_programs: int | None
    singles: bool

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> StepAttention:
        plans = {
            window: self._plan(tensors, "step", window, self.num_programs, self.singles)
            for window in set(self.windows)
        }
        window = self.windows[-1]
        last = plans[window]
        if self.last_programs is not None:
            last = self._plan(tensors, "last", window, self.last_programs, True)
        return StepAttention(plans=plans, last=last)

    def _plan(
        self,
        tensors: Mapping[str, torch.Tensor],
        name: str,
        window: int | None,
        num_programs: int,
        cut: bool,
    ) -> _SplitPlan:
        return _SplitPlan(
            SplitTiles(
                tiles=tensors[f"{name}.tiles"],
                first_programs=tensors[f"{name}.first_programs.{window}"],
                tables=tensors["tables"],
                block_size=self.block_size,
                num_programs=num_programs,
                cut=cut,
                window=window,
            )
        )


def lay_out_fixed_splits(
    batch: AttentionBatch,
    *,
    windows: Sequence[int | None],
    sampled: Sequence[int] | None,
    spec: AttentionSpec,
    padded_to: PaddedShape | None,
) -> AttentionLayout:
    """As `lay_out_attention`."""
    step = StepSequences.of(batch)
    group = spec.num_heads // spec.num_kv_heads
    as_prompts = step.lengths > (0 if padded_to is not None and not padded_to.rows else 1)
    chunks, singles = np.flatnonzero(as_prompts), np.flatnonzero(~as_prompts)
    tiles = cut_tiles(step.whole_tiles(chunks), TILE_ROWS, group)
    whole = np.array(tiles, dtype=np.int64).reshape(-1, 4)
    room, last_room = None, None
    if padded_to is not None:
        # Each chunk may end with a tile that is not full.
        most = padded_to.chunk_tokens // (TILE_ROWS // group) + padded_to.chunks
        room, last_room = (most, padded_to.rows), (0, padded_to.sequences)
    arrays, num_programs = _arrays(
        "step", whole, _single_tiles(step, singles, step.firsts[singles]), set(windows), room
    )
    last_programs = None
    if sampled is not None:
        rows = np.array(sampled, dtype=np.int64)
        own = _single_tiles(step, rows, np.arange(len(rows)))
        last, last_programs = _arrays("last", whole[:0], own, windows[-1:], last_room)
        arrays |= last
    form = _SplitForm(
        block_size=batch.block_size,
        windows=tuple(windows),
        num_programs=num_programs,
        last_programs=last_programs,
        singles=len(singles) > 0,
    )
    # The longest array comes last: with `padded_to` only its used part is copied.
    return AttentionLayout(form=form, arrays={**arrays, "tables": step.tables})


def _single_tiles(step: StepSequences, rows: Ints, places: Ints) -> Ints:
    """The last tokens of these sequences as a tile each."""
    ones = np.ones_like(rows)
    return np.stack((places, ones, step.ends[rows] - 1, step.table_starts[rows]), axis=1)


def _arrays(
    name: str,
    whole: Ints,
    singles: Ints,
    windows: Iterable[int | None],
    room: tuple[int, int] | None,
) -> tuple[dict[str, Ints], int]:
    """The arrays of `SplitTiles` and how many programs they need: with `room` for so many tiles of
    chunks and of single queries, always the same number."""
    tiles = np.concatenate((whole, singles))
    arrays = {f"{name}.tiles": padded(tiles, None if room is None else sum(room))}
    num_programs, ends = 0, singles[:, 2] + 1
    for window in windows:
        begins = np.zeros_like(ends) if window is None else np.maximum(ends - window, 0)
        # A chunk's tile has one program, padding none.
        counts = np.ones(len(tiles), dtype=np.int64)
        counts[len(whole) :] = _programs(-(-ends // SPLIT_KEYS) - begins // SPLIT_KEYS)
        first_programs = np.full(len(arrays[f"{name}.tiles"]) + 1, counts.sum(), dtype=np.int32)
        first_programs[: len(tiles)] = np.cumsum(counts) - counts
        arrays[f"{name}.first_programs.{window}"] = first_programs
        num_programs = max(num_programs, int(counts.sum()))
    if room is not None:
        num_programs = room[0] + (_most_programs(room[1]) if room[1] else 0)
    return arrays, num_programs


def _programs(splits: Ints) -> Ints:
    """Of single queries with so many splits: one for each, while there are enough for those with
    the most; the others have one for all."""
    left = _most_programs(len(splits)) - len(splits)
    if splits.sum() - len(splits) <= left:
        return splits
    counts = np.ones_like(splits)
    for query in np.argsort(-splits, kind="stable"):
        if splits[query] - 1 <= left:
            counts[query] = splits[query]
            left -= splits[query] - 1
    return counts


def _most_programs(queries: int) -> int:
    return max(_LEAST_PROGRAMS, _PROGRAMS_PER_QUERY * queries)
