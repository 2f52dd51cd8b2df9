"""Steps by tables of what their parts take: measured operators, interpolated between sizes.

A step takes what all but attention does for its tokens, the attention of each chunk of a prompt by
its tokens and those before them, and the attention of its decodes by how many there are and by
their mean context. So steps of prompts and decodes together need no table of their own.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from lengthwise_simulator.cost.profile import Chunk
from lengthwise_simulator.errors import SimulationError

MOST_POINTS = 200
MOST_SIZE = 10**9
MOST_MILLISECONDS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGrid:
    """Sizes at which parts of steps have been measured."""

    tokens: Sequence[int]
    past: Sequence[int]
    requests: Sequence[int]
    context: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("tokens", "past", "requests", "context"):
            sizes = getattr(self, name)
            if not 2 <= len(sizes) <= MOST_POINTS or any(a >= b for a, b in pairwise(sizes)):
                raise SimulationError(f"{name}: expected 2 to {MOST_POINTS} sizes that rise")
            if not 0 <= sizes[0] <= sizes[-1] <= MOST_SIZE:
                raise SimulationError(f"{name}: got {sizes[-1]}, expected 0 to {MOST_SIZE}")


# Without equality: workers' costs are looked up by it for every worker made.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepTables:
    """Milliseconds, of a worker of so many GPUs."""

    grid: StepGrid
    rest: Sequence[float]  # by tokens
    prompts: Sequence[Sequence[float]]  # by tokens, then tokens before them
    decodes: Sequence[Sequence[float]]  # by requests, then context of each

    def __post_init__(self) -> None:
        grid = self.grid
        _check("rest", [self.rest], 1, len(grid.tokens))
        _check("prompts", self.prompts, len(grid.tokens), len(grid.past))
        _check("decodes", self.decodes, len(grid.requests), len(grid.context))

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        grid = self.grid
        tokens, milliseconds = requests, 0.0
        for new, past in chunks:
            tokens += new
            milliseconds += _surface(self.prompts, grid.tokens, new, grid.past, past)
        if not tokens:
            return 0.0
        if requests:
            mean = context / requests
            milliseconds += _surface(self.decodes, grid.requests, requests, grid.context, mean)
        at, share = _place(grid.tokens, tokens)
        return (milliseconds + _between(self.rest, at, share)) / 1e3


def _check(name: str, rows: Sequence[Sequence[float]], height: int, width: int) -> None:
    if len(rows) != height or any(len(row) != width for row in rows):
        raise SimulationError(f"{name}: expected {height} rows of {width} numbers")
    for row in rows:
        for value in row:
            if not isfinite(value) or not 0 <= value <= MOST_MILLISECONDS:
                raise SimulationError(f"{name}: got {value:g}, expected milliseconds from 0 on")


def _place(sizes: Sequence[int], size: float) -> tuple[int, float]:
    """Between which two sizes, and how far; before the first at it, beyond the last as before."""
    at = min(max(bisect_right(sizes, size) - 1, 0), len(sizes) - 2)
    low = sizes[at]
    return at, max((size - low) / (sizes[at + 1] - low), 0.0)


def _between(values: Sequence[float], at: int, share: float) -> float:
    low = values[at]
    return max(low + share * (values[at + 1] - low), 0.0)


def _surface(
    rows: Sequence[Sequence[float]],
    sizes: Sequence[int],
    size: float,
    column_sizes: Sequence[int],
    column: float,
) -> float:
    at, share = _place(sizes, size)
    across = _place(column_sizes, column)
    low = _between(rows[at], *across)
    return max(low + share * (_between(rows[at + 1], *across) - low), 0.0)
