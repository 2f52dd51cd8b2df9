"""Steps that make a GPU compile every kernel a request may need, and those that are captured.

Kernels differ by what a step is, not by how large: a short prompt, a longer one and
decode rows; greedy and drawn tokens; alone they would show kernels sizes of 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_kernels.dispatch import PaddedShape

WARM_UP_BLOCKS: Final = 10
_LONG: Final = 65
"""Tokens of a prompt that takes large tiles whatever the heads are."""

_PREFIX_TOKENS: Final = 16_384
"""In common, where a graph of rows with a common prefix is captured: as many as a model has, but
with these eight rows of any model read so much twice that it pays to read it once."""
_PREFIX_ROWS: Final = 8

_GREEDY: Final = SamplingParameters(temperature=0.0)
_DRAWN: Final = SamplingParameters(temperature=1.0, top_k=5, top_p=0.9, min_p=0.1)
_PENALISED: Final = SamplingParameters(temperature=0.0, repetition_penalty=1.1, top_logprobs=1)


def warm_up_steps(
    *, layout: KVLayout, num_blocks: int, spec: ModelSpec, has_adapters: bool = False
) -> Iterator[Sequence[SequenceChunk]]:
    """Steps to run one after the other; they write to the first WARM_UP_BLOCKS blocks."""
    blocks = range(min(num_blocks, WARM_UP_BLOCKS))
    most = min(len(blocks) * layout.block_size, spec.context_length) - 1
    for length, start in ((2, 0), (_LONG, 0), (1, 1)):
        for sampling in (_DRAWN, _PENALISED):
            end = start + min(length, most)
            chunk = SequenceChunk(
                token_ids=[0] * (end - start),
                start=start,
                block_ids=blocks,
                sampling=SamplingState(
                    sampling=sampling, token_ids=[0] * end, num_prompt_tokens=end
                ),
            )
            # Both write the same to the same places.
            yield [chunk, chunk]
            if has_adapters:
                yield _adapted([chunk, chunk])


def capture_steps(
    plan: GraphPlan, layout: KVLayout, spec: ModelSpec, *, has_adapters: bool = False
) -> list[Sequence[SequenceChunk]]:
    """A step of every form that the shapes of `plan` have, in their order; those of rows with a
    common prefix come after those without, and then, where there are adapters, all of them again,
    with one: steps without do not pay for it. All write to block 0."""
    steps, sharing = list[Sequence[SequenceChunk]](), list[Sequence[SequenceChunk]]()
    far = min(spec.context_length, _PREFIX_TOKENS) - 1
    for shape in plan.shapes():
        lengths = _chunk_lengths(shape)
        if max(lengths, default=1) > spec.context_length:
            continue
        # Shapes with chunks have one form, whether or not anything is drawn.
        for sampling in (_DRAWN,) if shape.chunks else (_GREEDY, _DRAWN):
            chunks = [_chunk(0, length, sampling, layout) for length in lengths]
            steps.append([_chunk(0, 1, sampling, layout)] * shape.rows + chunks)
            if shape.rows >= _PREFIX_ROWS:
                sharing.append([_chunk(far, 1, sampling, layout)] * shape.rows + chunks)
    steps += sharing
    return [*steps, *map(_adapted, steps)] if has_adapters else steps


def _adapted(chunks: Sequence[SequenceChunk]) -> Sequence[SequenceChunk]:
    """The same with an adapter."""
    return [replace(chunk, adapter=0) for chunk in chunks]


def _chunk_lengths(shape: PaddedShape) -> list[int]:
    """Of as many chunks of prompts as fit a shape, each of two tokens at least."""
    count = min(shape.chunks, shape.chunk_tokens // 2)
    return [(shape.chunk_tokens + place) // count for place in range(count)]


def _chunk(
    start: int, length: int, sampling: SamplingParameters, layout: KVLayout
) -> SequenceChunk:
    end = start + length
    return SequenceChunk(
        token_ids=[0] * length,
        start=start,
        block_ids=[0] * layout.num_blocks_for(end),
        sampling=SamplingState(sampling=sampling, token_ids=range(end), num_prompt_tokens=end),
    )
