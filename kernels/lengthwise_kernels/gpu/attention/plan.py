"""A step's attention on a GPU: prompt chunks, decode rows, and decode rows with a common prefix,
each with its kernel; or all in `split_attention`, where it has to be invariant.

Planning happens on the host, into arrays that one copy takes to the GPU; what the layers then
launch depends on a form and on tensors and reads nothing back. Padded to a `PaddedShape`, steps of
different sizes have one form: padding sees no key, and what it gets is written to its own place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from lengthwise_kernels.attention_plan import (
    AttentionBatch,
    AttentionLayout,
    AttentionPlan,
    AttentionSpec,
    PaddedShape,
    StepAttention,
)
from lengthwise_kernels.gpu.attention.decode import MAX_HEAD_DIM, DecodeRows, decode_attention
from lengthwise_kernels.gpu.attention.fixed_splits import TILE_ROWS
from lengthwise_kernels.gpu.attention.fixed_splits_plan import lay_out_fixed_splits
from lengthwise_kernels.gpu.attention.prefill import (
    MAX_GROUP,
    PromptTiles,
    cut_tiles,
    prefill_attention,
    tile_rows,
)
from lengthwise_kernels.gpu.attention.prefix_groups import MAX_GROUPS, PrefixGroup, find_groups
from lengthwise_kernels.gpu.attention.sequences import Ints, StepSequences, padded, row_arrays
from lengthwise_kernels.gpu.attention.shared_prefix import MAX_GROUP as MAX_SHARING_GROUP
from lengthwise_kernels.gpu.attention.shared_prefix import (
    PrefixGroups,
    cut_groups,
    group_tiles,
    shared_prefix_attention,
)
from lengthwise_kernels.gpu.launch import FLOATS, multiprocessors, require
from lengthwise_kernels.staging import to_device

PROGRAMS_PER_MULTIPROCESSOR = 3
"""Decode programs that fit a multiprocessor's shared memory (`decode_attention`)."""


@dataclass(frozen=True, slots=True)
class _KernelPlan:
    prompts: PromptTiles | None
    decode: DecodeRows | PrefixGroups | None

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        out = torch.empty_like(queries)
        if self.prompts is not None:
            prefill_attention(queries, layer, self.prompts, scale, out)
        if isinstance(self.decode, PrefixGroups):
            shared_prefix_attention(queries, layer, self.decode, scale, out)
        elif self.decode is not None:
            decode_attention(queries, layer, self.decode, scale, out)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _KernelForm:
    """`tile_rows` is 0 without prompt chunks, `splits` 0 without a shared prefix; `own_last` says
    that not all tokens are sampled."""

    block_size: int
    num_programs: int
    windows: tuple[int | None, ...]
    tile_rows: int
    singles: bool
    splits: int
    own_last: bool

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> StepAttention:
        plans = {window: self._plan(tensors, window) for window in set(self.windows)}
        window = self.windows[-1]
        last = plans[window]
        if self.own_last:
            last = _KernelPlan(None, self._rows(tensors, "last", window))
        return StepAttention(plans=plans, last=last)

    def _plan(self, tensors: Mapping[str, torch.Tensor], window: int | None) -> _KernelPlan:
        prompts: PromptTiles | None = None
        decode: DecodeRows | PrefixGroups | None = None
        if self.tile_rows:
            prompts = PromptTiles(
                tiles=tensors["tiles"],
                tables=tensors["tables"],
                block_size=self.block_size,
                rows=self.tile_rows,
                window=window,
            )
        if self.singles:
            decode = rows = self._rows(tensors, "rows", window)
            if self.splits and window is None:
                tiles = tensors["prefix.tiles"]
                decode = PrefixGroups(tiles=tiles, rests=rows, splits=self.splits)
        return _KernelPlan(prompts, decode)

    def _rows(
        self, tensors: Mapping[str, torch.Tensor], name: str, window: int | None
    ) -> DecodeRows:
        return DecodeRows(
            queries=tensors[f"{name}.queries"],
            begins=tensors[f"{name}.begins.{window}"],
            ends=tensors[f"{name}.ends"],
            tables=tensors["tables"],
            table_starts=tensors[f"{name}.table_starts"],
            first_tiles=tensors[f"{name}.first_tiles.{window}"],
            block_size=self.block_size,
            num_programs=self.num_programs,
        )


def check_attention(spec: AttentionSpec) -> None:
    """Raise `UnsupportedByKernel` unless the kernels compute attention of this model."""
    group, most = spec.num_heads // spec.num_kv_heads, TILE_ROWS if spec.invariant else MAX_GROUP
    require(
        spec.head_dim <= MAX_HEAD_DIM and group <= most and spec.dtype in FLOATS,
        f"attention on a GPU needs heads of at most {MAX_HEAD_DIM} numbers, at most {most}"
        f" query heads for each key head, and one of {', '.join(map(str, FLOATS))}; got heads of"
        f" {spec.head_dim}, {group} for each key head, {spec.dtype}",
    )


def warm_up_attention(spec: AttentionSpec, layer: torch.Tensor) -> None:
    """Compile attention over common prefixes, which may be long in coming."""
    group = spec.num_heads // spec.num_kv_heads
    if group > MAX_SHARING_GROUP or spec.invariant:
        return
    groups = PrefixGroups(
        tiles=torch.tensor([[0, 1, 1, 0]], dtype=torch.int32, device=spec.device),
        rests=decode_rows([(0, 0, [0])], None, layer.shape[2], spec, prefixes=[1]),
        splits=1,
    )
    queries = torch.zeros((1, spec.num_heads, spec.head_dim), dtype=spec.dtype, device=spec.device)
    shared_prefix_attention(queries, layer, groups, 1.0, torch.empty_like(queries))


def plan_attention(
    batch: AttentionBatch, *, window: int | None, spec: AttentionSpec
) -> AttentionPlan:
    """Work out the attention of `batch` for layers with this sliding window (None: no window)."""
    layout = lay_out_attention(batch, windows=(window,), sampled=None, spec=spec)
    return layout.form.bind(to_device(layout.arrays, spec.device)).plans[window]


def lay_out_attention(
    batch: AttentionBatch,
    *,
    windows: Sequence[int | None],
    sampled: Sequence[int] | None,
    spec: AttentionSpec,
    padded_to: PaddedShape | None = None,
) -> AttentionLayout:
    """Work out the attention of `batch` for layers with these sliding windows.

    `sampled` are the sequences whose last token is sampled, None: all tokens are.
    """
    if spec.invariant:
        return lay_out_fixed_splits(
            batch, windows=windows, sampled=sampled, spec=spec, padded_to=padded_to
        )
    step = StepSequences.of(batch)
    group = spec.num_heads // spec.num_kv_heads
    arrays: dict[str, Ints] = {}
    rows, splits = 0, 0
    as_prompts = step.lengths > (0 if padded_to is not None and not padded_to.rows else 1)
    chunks, singles = np.flatnonzero(as_prompts), np.flatnonzero(~as_prompts)
    if len(chunks):
        longest = int(step.lengths.max()) if padded_to is None else padded_to.chunk_tokens
        rows, most = tile_rows(longest, group), None
        if padded_to is not None:
            # Each chunk may end with a tile that is not full.
            most = padded_to.chunk_tokens // (rows // group) + padded_to.chunks
        tiles = cut_tiles(step.whole_tiles(chunks), rows, group)
        arrays["tiles"] = padded(np.array(tiles, dtype=np.int32), most)
    if len(singles):
        count = None if padded_to is None else padded_to.rows
        groups = _groups(batch, singles, windows, spec)
        prefixes = None
        if groups:
            singles, prefixes, arrays["prefix.tiles"], splits = _share(
                step, singles, groups, spec, count
            )
        places = _places(step.firsts[singles], padded_to)
        arrays |= row_arrays("rows", step, singles, places, set(windows), spec, prefixes)
    if sampled is not None:
        last = np.array(sampled, dtype=np.int64)
        room = len(last) if padded_to is None else padded_to.sequences
        arrays |= row_arrays("last", step, last, np.arange(room), {windows[-1]}, spec, None)
    # The longest array comes last: with `padded_to` only its used part is copied.
    arrays["tables"] = step.tables
    form = _KernelForm(
        block_size=batch.block_size,
        num_programs=PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(spec.device),
        windows=tuple(windows),
        tile_rows=rows,
        singles=len(singles) > 0,
        splits=splits,
        own_last=sampled is not None,
    )
    return AttentionLayout(form=form, arrays=arrays)


def _places(places: Ints, padded_to: PaddedShape | None) -> Ints:
    """Of rows; those of padding get places behind all chunks, which padding tokens have."""
    if padded_to is None:
        return places
    filled = np.arange(padded_to.rows) + padded_to.chunk_tokens
    filled[: len(places)] = places
    return filled


def _groups(
    batch: AttentionBatch, singles: Ints, windows: Sequence[int | None], spec: AttentionSpec
) -> list[PrefixGroup]:
    fits = spec.num_heads // spec.num_kv_heads <= MAX_SHARING_GROUP
    if None not in windows or len(singles) < 2 or not fits:
        return []
    rows = singles.tolist()
    return find_groups(
        [batch.block_ids[row] for row in rows],
        [batch.starts[row] for row in rows],
        block_size=batch.block_size,
        key_bytes=2 * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize,
        # Two shares of the prefix and the rest, in float32, written and read.
        part_bytes=3 * 2 * 4 * spec.num_heads * spec.head_dim,
    )


def _share(
    step: StepSequences,
    singles: Ints,
    groups: Sequence[PrefixGroup],
    spec: AttentionSpec,
    count: int | None,
) -> tuple[Ints, Ints, Ints, int]:
    """The rows group by group, how many keys of each are shared, the tiles, and the splits."""
    order = list(chain.from_iterable(group.members for group in groups))
    alone = np.setdiff1d(np.arange(len(singles)), order)
    prefixes = np.zeros(len(singles), dtype=np.int64)
    runs, first = [], 0
    for members in groups:
        table = int(step.table_starts[singles[members.members[0]]])
        runs.append((first, len(members.members), members.keys, table))
        prefixes[first : first + len(members.members)] = members.keys
        first += len(members.members)
    # Rows that share nothing, and padding, are tiles without keys.
    runs.append((first, max(count or 0, len(singles)) - first, 0, 0))
    group = spec.num_heads // spec.num_kv_heads
    most = None if count is None else group_tiles(count, group) + MAX_GROUPS
    tiles = padded(np.array(cut_groups(runs, group), dtype=np.int32), most)
    splits = max(1, 2 * multiprocessors(spec.device) // (len(tiles) * spec.num_kv_heads))
    return singles[np.concatenate((np.array(order), alone))], prefixes, tiles, splits


def decode_rows(
    singles: Sequence[tuple[int, int, Sequence[int]]],
    window: int | None,
    block_size: int,
    spec: AttentionSpec,
    prefixes: Sequence[int] | None = None,
) -> DecodeRows:
    """Rows of single queries, each given as its place, its position and its sequence's blocks.

    With `prefixes` a row does not see its first so many keys.
    """
    step = StepSequences.of(
        AttentionBatch(
            query_lengths=[1] * len(singles),
            starts=[position for _, position, _ in singles],
            block_ids=[ids for _, _, ids in singles],
            block_size=block_size,
        )
    )
    rows, places = np.arange(len(singles)), np.array([place for place, _, _ in singles])
    shared = None if prefixes is None else np.array(prefixes)
    arrays = row_arrays("rows", step, rows, places, {window}, spec, shared)
    form = _KernelForm(
        block_size=block_size,
        num_programs=PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(spec.device),
        windows=(window,),
        tile_rows=0,
        singles=True,
        splits=0,
        own_last=False,
    )
    tensors = to_device({**arrays, "tables": step.tables}, spec.device)
    return form._rows(tensors, "rows", window)
