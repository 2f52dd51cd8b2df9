"""The seam between whoever plans steps and whatever computes them.

The rule: one call is one step. Prefill chunks and decode rows travel together, each row says where
its keys and values lie, and the runner computes nothing it was not asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lengthwise_engine.errors import StepError
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.spec import ModelSpec
from lengthwise_engine.sampler import SampledToken, SamplingState

__all__ = ["ModelRunner", "SampledToken", "SequenceChunk", "check_chunks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceChunk:
    """The tokens of one sequence to compute in one step.

    `start` is the position of the first of them, which is also how many tokens of the sequence the
    cache already holds. `block_ids` cover the positions [0, start + len(token_ids)) and may go
    beyond. `sampling` is None when no token is wanted (a prompt chunk that is not the last).
    """

    token_ids: Sequence[int]
    start: int
    block_ids: Sequence[int]
    sampling: SamplingState | None

    @property
    def end(self) -> int:
        """How many tokens of the sequence the cache holds after the step."""
        return self.start + len(self.token_ids)

    def begun_block(self, block_size: int) -> int | None:
        """The block the step leaves partly filled, if the step is the first to write to it."""
        if self.end % block_size == 0 or self.start > self.end - self.end % block_size:
            return None
        return self.block_ids[self.end // block_size]


class ModelRunner(Protocol):
    """Computes steps of one model over one KV cache; not thread-safe, one thread owns it."""

    @property
    def layout(self) -> KVLayout: ...

    def run(
        self,
        chunks: Sequence[SequenceChunk],
        on_layer: Callable[[int], None] | None = None,
    ) -> list[SampledToken | None]:
        """Compute one step; a decode row is a chunk of one token.

        `on_layer(i)` is called once keys and values of layer i of all chunks lie in the cache. The
        result has one entry per chunk, None where `sampling` is None. Raises `StepError` before
        anything is computed when a chunk breaks its contract.
        """
        ...


def check_chunks(
    chunks: Sequence[SequenceChunk], *, layout: KVLayout, num_blocks: int, spec: ModelSpec
) -> None:
    """Raise `StepError` unless every chunk can be computed without touching foreign memory."""
    for index, chunk in enumerate(chunks):
        if not chunk.token_ids or chunk.start < 0 or chunk.end > spec.context_length:
            raise StepError(
                f"chunk {index}: needs one token or more within [0, {spec.context_length}), got"
                f" {len(chunk.token_ids)} from position {chunk.start}"
            )
        if min(chunk.token_ids) < 0 or max(chunk.token_ids) >= spec.vocab_size:
            raise StepError(f"chunk {index}: token ids must lie in [0, {spec.vocab_size})")
        needed = layout.num_blocks_for(chunk.end)
        if len(chunk.block_ids) < needed:
            raise StepError(
                f"chunk {index}: {chunk.end} tokens need {needed} blocks of {layout.block_size},"
                f" got {len(chunk.block_ids)}"
            )
        if min(chunk.block_ids) < 0 or max(chunk.block_ids) >= num_blocks:
            raise StepError(f"chunk {index}: block ids must lie in [0, {num_blocks})")
        if chunk.sampling is not None and len(chunk.sampling.token_ids) != chunk.end:
            raise StepError(
                f"chunk {index}: a token is sampled after all {len(chunk.sampling.token_ids)}"
                f" tokens of the sequence, but the chunk ends at {chunk.end}"
            )
