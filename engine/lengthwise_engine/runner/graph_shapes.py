"""What steps are padded to so that few CUDA graphs serve them all.

Padding has to cost less than launching. A step that fits no shape runs as it is.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lengthwise_kernels.dispatch import PaddedShape

DECODE_ROWS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256)
"""Rows of decode graphs. Padding rows read no keys, and a matrix product takes rows 64 at a time,
so that padding costs next to nothing; the steps keep copies of logits small. Above 256 rows a step
of even a small model takes the GPU longer than it takes the host to launch it."""

PROMPT_TOKENS: Final = (32, 64, 128, 256, 384, 512, 768, 1024)
"""Tokens of all chunks of a prefill graph together. Up to 256 weights take longer to read than
products to compute, and padding is free; beyond, a third at most is padding. Since chunks lie one
after the other, a graph serves every mix of lengths with this sum. 1,024 tokens take a GPU 20 ms
at 7B, five times what launching does; only small models want more."""

MAX_PROMPT: Final = 256
"""The longest chunk of a step that is replayed: longer ones are not bound by their launches
(papers: LAPS captures prompts of up to 256 tokens)."""

PROMPTS: Final = (8, 64)
"""Chunks of prefill graphs: what is padded is one row each of the head's product, which 64 rows
do not slow down."""

MIXED_ROWS: Final = (16, 64, 128)
MIXED_PROMPTS: Final = 4
"""Steps with both: so many decode rows, and up to four chunks with up to MAX_PROMPT tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """What is captured: so many decode rows and tokens of prompts, in so much memory."""

    memory_bytes: int
    rows: tuple[int, ...] = DECODE_ROWS
    prompt_tokens: tuple[int, ...] = PROMPT_TOKENS

    def padded(self, lengths: Sequence[int]) -> PaddedShape | None:
        """The least room for chunks of so many tokens; None: there is none."""
        longest, singles = max(lengths), sum(length == 1 for length in lengths)
        if longest == 1:
            return _decode(_at_least(sorted(self.rows), len(lengths)))
        if longest > MAX_PROMPT:
            return None
        if singles:
            chunks = len(lengths) - singles
            fits = chunks <= MIXED_PROMPTS and sum(lengths) - singles <= MAX_PROMPT
            return _mixed(_at_least(self._mixed_rows, singles)) if fits else None
        tokens = _at_least(sorted(self.prompt_tokens), sum(lengths))
        return _prompts(tokens, _at_least(PROMPTS, len(lengths)))

    def shapes(self) -> list[PaddedShape]:
        """What gains most by a graph comes first: where the memory does not hold all, it gets it.
        Of a kind the largest, in whose memory the others find room."""
        prompts = [
            _prompts(tokens, sequences)
            for tokens in sorted(set(self.prompt_tokens), reverse=True)
            # A chunk has two tokens at least; fewer of them take the room before this one.
            for fewer, sequences in zip((0, *PROMPTS), PROMPTS, strict=False)
            if 2 * (fewer + 1) <= tokens <= MAX_PROMPT * sequences
        ]
        rows = sorted(set(self.rows), reverse=True)
        planned = [*map(_decode, rows), *map(_mixed, reversed(self._mixed_rows)), *prompts]
        return [shape for shape in planned if shape is not None]

    @property
    def _mixed_rows(self) -> tuple[int, ...]:
        """Where decode rows are captured at all."""
        return tuple(rows for rows in MIXED_ROWS if rows <= max(self.rows, default=0))


NO_GRAPHS: Final = GraphPlan(memory_bytes=0)


def _decode(rows: int | None) -> PaddedShape | None:
    return None if rows is None else PaddedShape(tokens=rows, sequences=rows, rows=rows)


def _mixed(rows: int | None) -> PaddedShape | None:
    if rows is None:
        return None
    return PaddedShape(tokens=rows + MAX_PROMPT, sequences=rows + MIXED_PROMPTS, rows=rows)


def _prompts(tokens: int | None, sequences: int | None) -> PaddedShape | None:
    if tokens is None or sequences is None:
        return None
    return PaddedShape(tokens=tokens, sequences=sequences, rows=0)


def _at_least(sizes: Sequence[int], needed: int) -> int | None:
    index = bisect_left(sizes, needed)
    return sizes[index] if index < len(sizes) else None
