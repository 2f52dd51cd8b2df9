"""Steps that make a GPU compile every kernel a request may need.

Kernels differ by what a step is, not by how large: a short prompt, a longer one and
decode rows; greedy and drawn tokens; alone they would show kernels sizes of 1.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

WARM_UP_BLOCKS: Final = 10
_LONG: Final = 65
"""Tokens of a prompt that takes large tiles whatever the heads are."""

_DRAWN: Final = SamplingParameters(temperature=1.0, top_k=5, top_p=0.9, min_p=0.1)
_PENALISED: Final = SamplingParameters(temperature=0.0, repetition_penalty=1.1, top_logprobs=1)


def warm_up_steps(
    *, layout: KVLayout, num_blocks: int, spec: ModelSpec
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
