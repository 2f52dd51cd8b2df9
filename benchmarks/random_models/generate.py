"""Prompts in, greedy tokens out, over a runner alone: no scheduler, no wire, blocks in any order.

The next step is launched before the last one's tokens are read, as a decode worker does.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from lengthwise_engine.runner.base import ModelRunner, SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState

GREEDY: Final = SamplingParameters(temperature=0.0)


@dataclass(slots=True, kw_only=True)
class Row:
    """A sequence: `token_ids` grows with what is generated, known to the host at `known_at`."""

    token_ids: list[int]
    num_prompt_tokens: int
    block_ids: Sequence[int]
    known_at: list[float] = field(default_factory=list)

    @property
    def state(self) -> SamplingState:
        return SamplingState(
            sampling=GREEDY, token_ids=self.token_ids, num_prompt_tokens=self.num_prompt_tokens
        )

    @property
    def generated(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    def learn(self, token: SampledToken | None) -> None:
        if token is not None:
            self.token_ids.append(token.token_id)
            self.known_at.append(time.perf_counter())


def random_prompts(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    """No two of them begin alike: nothing can be taken from a prefix."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in lengths]


def place(
    prompts: Sequence[Sequence[int]], room: int, *, block_size: int, num_blocks: int
) -> list[Row]:
    """Gives each prompt blocks for itself and `room` tokens more, scattered over the cache.

    Raises ValueError when the cache is too small.
    """
    counts = [-(-(len(prompt) + room) // block_size) for prompt in prompts]
    if sum(counts) > num_blocks:
        raise ValueError(f"{sum(counts)} blocks are needed, the cache has {num_blocks}")
    free = random.Random(0).sample(range(num_blocks), sum(counts))
    rows = []
    for prompt, count in zip(prompts, counts, strict=True):
        rows.append(
            Row(token_ids=list(prompt), num_prompt_tokens=len(prompt), block_ids=free[:count])
        )
        free = free[count:]
    return rows


def prefill(runner: ModelRunner, rows: Sequence[Row], step_tokens: int) -> None:
    """Computes all prompts in order, `step_tokens` at a time, and the first token of each."""
    for step in _cut(rows, step_tokens, runner.layout.block_size):
        chunks = [
            SequenceChunk(
                token_ids=row.token_ids[start:end],
                start=start,
                block_ids=row.block_ids,
                sampling=row.state if end == row.num_prompt_tokens else None,
            )
            for row, start, end in step
        ]
        _learn([row for row, _, _ in step], runner.run(chunks))


def decode(runner: ModelRunner, rows: Sequence[Row], steps: int) -> None:
    """Generates `steps` tokens of each row; the last token that a row has is not computed yet."""
    starts = [len(row.token_ids) - 1 for row in rows]
    pending = runner.launch(
        [
            SequenceChunk(
                token_ids=row.token_ids[-1:],
                start=start,
                block_ids=row.block_ids,
                sampling=row.state,
            )
            for row, start in zip(rows, starts, strict=True)
        ]
    )
    for step in range(1, steps):
        following = runner.launch(
            [
                SequenceChunk(
                    token_ids=(0,),
                    start=start + step,
                    block_ids=row.block_ids,
                    sampling=row.state,
                    follows=index,
                )
                for index, (row, start) in enumerate(zip(rows, starts, strict=True))
            ]
        )
        _learn(rows, pending.tokens())
        pending = following
    _learn(rows, pending.tokens())


def generate(
    runner: ModelRunner,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    num_blocks: int,
    step_tokens: int,
) -> list[Row]:
    """All prompts, then `num_tokens` of each."""
    rows = place(prompts, num_tokens, block_size=runner.layout.block_size, num_blocks=num_blocks)
    prefill(runner, rows, step_tokens)
    if num_tokens > 1:
        decode(runner, rows, num_tokens - 1)
    return rows


def _learn(rows: Sequence[Row], tokens: Sequence[SampledToken | None]) -> None:
    for row, token in zip(rows, tokens, strict=True):
        row.learn(token)


def _cut(
    rows: Sequence[Row], step_tokens: int, block_size: int
) -> Iterator[list[tuple[Row, int, int]]]:
    """Steps of (row, first token, end); a chunk ends with its prompt or with a block."""
    if step_tokens < block_size:
        raise ValueError(
            f"step_tokens: expected a block of {block_size} or more, got {step_tokens}"
        )
    step: list[tuple[Row, int, int]] = []
    left = step_tokens
    for row in rows:
        start = 0
        while start < row.num_prompt_tokens:
            end = min(row.num_prompt_tokens, start + left)
            if end < row.num_prompt_tokens:
                end -= end % block_size
            if end > start:
                step.append((row, start, end))
                left -= end - start
                start = end
            else:
                yield step
                step, left = [], step_tokens
    if step:
        yield step
