"""What steps are padded to so that few CUDA graphs serve them all.

Padding has to cost less than launching. A step that fits no shape runs as it is.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from lengthwise_kernels.dispatch import PaddedShape

DECODE_ROWS: Final = (*(1, 2, 4), *range(8, 64, 8), *range(64, 128, 16), *range(128, 257, 32))
"""Rows of decode graphs. Padding rows read no keys, and a matrix product takes rows 64 at a time,
so that padding costs next to nothing; the steps keep copies of logits small. Above 256 rows a step
of even a small model takes the GPU longer than it takes the host to launch it."""

MAX_PROMPT: Final = 256
"""The longest chunk of a step that is replayed: longer ones are not bound by their launches
(papers: LAPS captures prompts of up to 256 tokens)."""

PROMPTS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Chunks of prefill graphs: what is padded is one row each of the head's product."""

PROMPT_TOKENS: Final = (
    *(16, 32, 64, 128, 256),
    *(quarters * 64 << doubling for doubling in range(4) for quarters in (5, 6, 7, 8)),
)
"""Tokens of all chunks together, 4,096 at most. Up to 256 weights take longer to read than products
to compute, and padding is free; beyond, a quarter at most is padding. Since chunks lie one after
the other, a graph serves every mix of lengths with this sum."""


def padded_shape(lengths: Sequence[int]) -> PaddedShape | None:
    """The least room for chunks of so many tokens; None: there is none.

    Steps with both single tokens and longer chunks have none: the former want to be computed as
    decode rows, whose number would multiply the graphs.
    """
    longest = max(lengths)
    if longest == 1:
        rows = _at_least(DECODE_ROWS, len(lengths))
        return None if rows is None else PaddedShape(tokens=rows, sequences=rows, prompts=False)
    if longest > MAX_PROMPT or min(lengths) == 1:
        return None
    tokens, sequences = _at_least(PROMPT_TOKENS, sum(lengths)), _at_least(PROMPTS, len(lengths))
    if tokens is None or sequences is None:
        return None
    return PaddedShape(tokens=tokens, sequences=sequences, prompts=True)


def _at_least(sizes: Sequence[int], needed: int) -> int | None:
    index = bisect_left(sizes, needed)
    return sizes[index] if index < len(sizes) else None
