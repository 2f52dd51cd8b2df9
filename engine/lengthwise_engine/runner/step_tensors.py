"""A step's chunks as arrays, and those as tensors.

This is the only place where lists of a step become arrays; models see no chunk. What the
model computes depends on a form and on tensors alone, so that it can be captured in a CUDA graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_kernels.dispatch import (
    AttentionBatch,
    AttentionForm,
    AttentionSpec,
    PaddedShape,
    lay_out_adapters,
    lay_out_attention,
)
from lengthwise_kernels.staging import Arrays

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """A step as the host knows it. `form` and the shapes of all arrays but the last, which no
    kernel asks for, are all that its launches depend on."""

    form: AttentionForm
    arrays: Arrays


def lay_out_step(
    chunks: Sequence[SequenceChunk],
    *,
    windows: Sequence[int | None],
    block_size: int,
    attention: AttentionSpec,
    padded_to: PaddedShape | None = None,
    more: Arrays | None = None,
    samples_all: bool = False,
) -> StepLayout:
    """The arrays of checked `chunks`, padded to `padded_to`: tokens of padding are stored nowhere.

    `more` arrays travel with them. `samples_all`: the logits of every token are wanted.
    """
    lengths = [len(chunk.token_ids) for chunk in chunks]
    starts = [chunk.start for chunk in chunks]
    positions, blocks = _places(chunks, lengths, starts, block_size)
    token_ids = np.fromiter(
        chain.from_iterable(chunk.token_ids for chunk in chunks), np.int64, len(positions)
    )
    begun = [block for chunk in chunks if (block := chunk.begun_block(block_size)) is not None]
    sampling = [index for index, chunk in enumerate(chunks) if chunk.sampling is not None]
    # Steps of one form agree about it; those of one padded shape with chunks differ in who is
    # sampled.
    all_sampled = samples_all or (
        len(sampling) == len(positions) and not (padded_to is not None and padded_to.chunks)
    )
    sampled = np.arange(len(positions)) if all_sampled else np.cumsum(lengths)[sampling] - 1
    laid_out = lay_out_attention(
        AttentionBatch(
            query_lengths=lengths,
            starts=starts,
            block_ids=[chunk.block_ids for chunk in chunks],
            block_size=block_size,
        ),
        windows=windows,
        sampled=None if all_sampled else sampling,
        spec=attention,
        padded_to=padded_to,
    )
    arrays: dict[str, NDArray[Any]] = {
        "token_ids": token_ids,
        "positions": positions,
        "kv_rows": _kv_rows(positions, blocks, block_size),
        "begun": np.array(begun, dtype=np.int64),
        "sampled": sampled,
    }
    if padded_to is not None:
        for name, count, filler in (
            ("token_ids", padded_to.tokens, 0),
            ("positions", padded_to.tokens, 0),
            ("kv_rows", padded_to.tokens, -1),
            ("begun", padded_to.sequences, -1),
            ("sampled", padded_to.sequences, 0),
        ):
            arrays[name] = padded(arrays[name], count, filler)
    return StepLayout(form=laid_out.form, arrays={**arrays, **(more or {}), **laid_out.arrays})


def adapter_arrays(
    chunks: Sequence[SequenceChunk],
    device: torch.device,
    num_adapters: int,
    padded_to: PaddedShape | None = None,
) -> Arrays:
    """Which adapter tokens have, where any has one of the `num_adapters` that there may be."""
    if all(chunk.adapter is None for chunk in chunks):
        return {}
    numbers = np.array([-1 if chunk.adapter is None else chunk.adapter for chunk in chunks])
    tokens = np.repeat(numbers, [len(chunk.token_ids) for chunk in chunks])
    sampled = numbers[[chunk.sampling is not None for chunk in chunks]]
    return lay_out_adapters(device, tokens, sampled, num_adapters, padded_to)


def padded(array: NDArray[Any], count: int, filler: int) -> NDArray[Any]:
    """With `filler` up to `count` in the last dimension."""
    result = np.full((*array.shape[:-1], count), filler, dtype=array.dtype)
    result[..., : array.shape[-1]] = array
    return result


def _kv_rows(positions: Ints, blocks: Ints, block_size: int) -> Ints:
    """As `kv_rows` of the kernels has them."""
    rows = np.empty((2, len(positions)), dtype=np.int64)
    rows[0] = blocks * (2 * block_size) + positions % block_size
    rows[1] = rows[0] + block_size
    return rows


def _places(
    chunks: Sequence[SequenceChunk], lengths: Sequence[int], starts: Sequence[int], block_size: int
) -> tuple[Ints, Ints]:
    """The position of each token and the block it lies in."""
    if max(lengths) == 1:
        own = [chunk.block_ids[chunk.start // block_size] for chunk in chunks]
        return np.array(starts, dtype=np.int64), np.array(own, dtype=np.int64)
    written = [
        chunk.block_ids[chunk.start // block_size : -(-chunk.end // block_size)] for chunk in chunks
    ]
    counts, start, length = np.array([len(ids) for ids in written]), np.array(starts), lengths
    blocks = np.fromiter(chain.from_iterable(written), np.int64, int(counts.sum()))
    # A token's number less that of its chunk's first, and the same for blocks.
    first_token = np.cumsum(length) - length
    first_block = np.cumsum(counts) - counts
    positions = np.arange(sum(length)) + np.repeat(start - first_token, length)
    return positions, blocks[
        positions // block_size + np.repeat(first_block - start // block_size, length)
    ]
