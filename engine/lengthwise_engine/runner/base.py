"""The seam between planning steps and computing them.

One call is one step. Prefill chunks and decode rows travel together, each row says where
its keys and values lie, and the runner computes nothing it was not asked for. Steps are computed in
the order in which they were launched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.errors import StepError
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner.sampler import SampledToken as SampledToken
from lengthwise_engine.sampling.state import SamplingState


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceChunk:
    """The tokens of one sequence to compute in one step.

    `start` is the position of the first of them, which is also how many tokens of the sequence the
    cache already holds. `block_ids` cover the positions [0, start + len(token_ids)) and may go
    beyond. `sampling` is None when no token is wanted (a prompt chunk that is not the last).
    `adapter` is the number of the one that all of the sequence is computed with, of those loaded.

    A row whose token the step before still computes `follows` the chunk of that step with this
    index: `token_ids` is (0,) and stands for the token sampled there, which the runner takes from
    the device. The host does not know that token yet: `sampling.token_ids` is one short when the
    step is launched and may grow while it runs, so the position of the sampled token is `end`.
    """

    token_ids: Sequence[int]
    start: int
    block_ids: Sequence[int]
    sampling: SamplingState | None
    follows: int | None = None
    adapter: int | None = None

    @property
    def end(self) -> int:
        """How many tokens of the sequence the cache holds after the step."""
        return self.start + len(self.token_ids)

    def begun_block(self, block_size: int) -> int | None:
        """The block the step leaves partly filled, if the step is the first to write to it."""
        if self.end % block_size == 0 or self.start > self.end - self.end % block_size:
            return None
        return self.block_ids[self.end // block_size]


class PendingStep(Protocol):
    """A step that was launched."""

    @property
    def is_ready(self) -> bool:
        """Whether the step has ended, so that `tokens` returns at once. Announces its layers that
        are computed by now."""

    def tokens(self) -> list[SampledToken | None]:
        """Wait for the step to end: one entry per chunk, None where `sampling` is None.

        Raises TimeoutError when the device does not end it within a bounded time.
        """


class ModelRunner(Protocol):
    """Computes steps of one model over one KV cache; not thread-safe, one thread owns it."""

    @property
    def layout(self) -> KVLayout: ...

    @property
    def runs_ahead(self) -> bool:
        """Whether `launch` returns before the step has ended, so that the next may be planned."""

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        """Begin one step; a decode row is a chunk of one token.

        `on_layer(i)` is called once keys and values of layer i of all chunks lie in the cache: on
        this thread, in order, while the step is launched, looked at or waited for. Raises
        `StepError` before anything is computed when a chunk breaks its contract.
        """

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        """Compute one step: `launch`, and its tokens."""


@dataclass(frozen=True, slots=True)
class SettledStep:
    """A `PendingStep` that had ended when it was launched, as those of CPUs do."""

    settled: list[SampledToken | None]

    @property
    def is_ready(self) -> bool:
        return True

    def tokens(self) -> list[SampledToken | None]:
        return self.settled


def with_known_tokens(
    chunks: Sequence[SequenceChunk], sampled: Sequence[SampledToken | None]
) -> list[SequenceChunk]:
    """Checked `chunks` without `follows`: the tokens `sampled` by the step before filled in."""
    return [
        chunk if chunk.follows is None else _with_known_token(chunk, sampled[chunk.follows])
        for chunk in chunks
    ]


def _with_known_token(chunk: SequenceChunk, token: SampledToken | None) -> SequenceChunk:
    assert token is not None
    sampling = chunk.sampling
    if sampling is not None:
        known = sampling.token_ids[: chunk.start]
        sampling = replace(sampling, token_ids=[*known, token.token_id])
    return replace(chunk, token_ids=(token.token_id,), sampling=sampling, follows=None)


def check_chunks(
    chunks: Sequence[SequenceChunk],
    *,
    layout: KVLayout,
    num_blocks: int,
    spec: ModelSpec,
    before: Sequence[SequenceChunk] = (),
) -> None:
    """Raise `StepError` unless every chunk can be computed without touching foreign memory.

    `before` are the chunks of the step launched before this one.
    """
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
        if chunk.follows is not None:
            _check_follows(index, chunk, chunk.follows, before)
        known = chunk.end if chunk.follows is None else chunk.start
        if chunk.sampling is not None and len(chunk.sampling.token_ids) != known:
            raise StepError(
                f"chunk {index}: a token is sampled after all {len(chunk.sampling.token_ids)}"
                f" tokens of the sequence, but the chunk ends at {chunk.end}"
            )


def _check_follows(
    index: int, chunk: SequenceChunk, follows: int, before: Sequence[SequenceChunk]
) -> None:
    if not 0 <= follows < len(before) or before[follows].sampling is None:
        raise StepError(
            f"chunk {index}: follows chunk {follows} of the step before, which samples no such"
            f" token (it has {len(before)} chunks)"
        )
    if len(chunk.token_ids) != 1 or chunk.start != before[follows].end:
        raise StepError(
            f"chunk {index}: what follows chunk {follows} of the step before is the one token at"
            f" {before[follows].end}, got {len(chunk.token_ids)} from position {chunk.start}"
        )
    if chunk.sampling is not None and chunk.sampling.sampling.needs_history:
        raise StepError(
            f"chunk {index}: a grammar needs every token before, but it follows one that is not"
            " known yet; launch it after the step before was read"
        )
