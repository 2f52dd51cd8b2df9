"""Fits the cost model of one worker to the steps it runs.

Each step is a row (1, new tokens, attention, history, requests, context) and its seconds. The fit
minimises the relative errors, with no coefficient below 0; rows far from it are left out and it is
repeated. A step that took far too long (a warm-up, a descheduled process) weighs little in relative
errors to begin with.

A model is given out only if the steps seen distinguish its terms; what was never seen
keeps the coefficient it had; and a model in use is replaced only by one that differs, because every
change moves requests between classes and workers. Until there is one, the prior is scaled to the
last steps: a few tell how fast a worker is, which is what its scheduler has to know first.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from math import inf, sqrt
from operator import mul
from typing import Self

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.cost.least_squares import Matrix, condition, nonnegative
from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS
from lengthwise_policy.types import PromptChunk

MIN_SHORT_TOKENS, MAX_SHORT_TOKENS = 64, 1024

# A difference below this share is noise.
HYSTERESIS = 0.10

# A column with fewer rows counts as never seen, and its rows are left out.
MIN_ROWS = 16

# Rows further than this many median absolute deviations (six are four standard deviations) from
# the fit are left out.
OUTLIER_DEVIATIONS = 6.0

# Of the scaled normal equations. Measured: prompts of 1 to 8000 tokens give 2e1, of 16 to 512 1e2,
# of 64 to 256 1e3 (decode steps of 1 to 63 requests 7e2), all with the coefficients found; four
# prompts of 150 to 160 1e4 and one of 128 to 192 2e5, with t0, beta and alpha exchanged at random.
MAX_CONDITION = 5e3

# Samples of the first fit. The prior is right for no worker, so the first fits come early, each
# with twice the samples of the one before, until there are as many as every later one waits for.
FIRST_FIT = 50

# Of the last so many steps the median tells how far off the prior is, once there are a few. What
# its proportions get wrong is twice or so; workers differ by a hundred times.
SCALED_BY, LEAST_SCALED_BY = 16, 3

Row = tuple[float, ...]  # the terms of a step, in this order, divided by its seconds
NAMES = tuple(field.name for field in fields(CostModel))
TOKENS = NAMES.index("token_seconds")  # without it no boundary is known


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """One step that a worker ran."""

    seconds: float
    new_tokens: int = 0  # sum of L over the prompt chunks
    attention: int = 0  # sum of L * (L + 2 H)
    history: int = 0  # sum of H
    decode_requests: int = 0
    decode_context: int = 0  # tokens in their contexts

    @classmethod
    def of(
        cls,
        chunks: Sequence[PromptChunk],
        seconds: float,
        *,
        decode_requests: int = 0,
        decode_context: int = 0,
    ) -> Self:
        """A step with these chunks of prompts, beside requests that decode."""
        return cls(
            seconds=seconds,
            new_tokens=sum(chunk.num_tokens for chunk in chunks),
            attention=sum(c.num_tokens * (c.num_tokens + 2 * c.start) for c in chunks),
            history=sum(chunk.start for chunk in chunks),
            decode_requests=decode_requests,
            decode_context=decode_context,
        )


class CostFit:
    """Takes samples, gives out a model.

    Refits at 50, 100 and `refit_every` samples, then each `refit_every`. A model is kept against
    smaller differences from then on.

    `observe` takes half a microsecond, and each `refit_every`th time 1 ms more (1.9 ms with all six
    terms seen; window 1024, CPU at 3 GHz).
    """

    def __init__(
        self, *, prior: CostModel = PRIOR, window: int = 1024, refit_every: int = 200
    ) -> None:
        require_at_least("refit_every", refit_every, MIN_ROWS)
        require_at_least("window (not below refit_every)", window, refit_every)
        self._rows: deque[Row] = deque(maxlen=window)
        self._refit_every = refit_every
        self._until_refit = min(FIRST_FIT, refit_every)
        self._prior = astuple(prior)
        self.model = prior
        self.is_fitted = False
        self._is_settled = False  # fitted to at least `refit_every` samples
        self._measured: set[int] = set()  # terms, by their place
        self.short_tokens = DEFAULT_SHORT_TOKENS

    @property
    def num_samples(self) -> int:
        """In the window."""
        return len(self._rows)

    @property
    def measured(self) -> CostModel | None:
        """The model with 0 for every term that no step has shown; None while nothing is fitted."""
        if not self.is_fitted:
            return None
        known = (x if i in self._measured else 0.0 for i, x in enumerate(astuple(self.model)))
        return CostModel(**dict(zip(NAMES, known, strict=True)))

    def observe(self, sample: StepSample) -> bool:
        """True when another model was fitted (`short_tokens` changes only then).

        A sample without measurable time is left out.
        """
        if not 0.0 < sample.seconds < inf:
            return False
        weight = 1.0 / sample.seconds
        self._rows.append(
            (
                weight,
                weight * sample.new_tokens,
                weight * sample.attention,
                weight * sample.history,
                weight * sample.decode_requests,
                weight * sample.decode_context,
            )
        )
        self._until_refit -= 1
        has_changed = False
        if not self._until_refit:
            self._until_refit = min(len(self._rows), self._refit_every)
            has_changed = self._refit()
        if not self.is_fitted:
            self._scale()
        return has_changed

    def _scale(self) -> None:
        """Takes the prior times what it is off by, in the median of the last steps."""
        last = sorted(_dot(self._prior, row) for row in islice(reversed(self._rows), SCALED_BY))
        median = last[len(last) // 2]
        if len(last) < LEAST_SCALED_BY or median <= 0.0:
            return
        scaled = (coefficient / median for coefficient in self._prior)
        self.model = CostModel(**dict(zip(NAMES, scaled, strict=True)))

    def _refit(self) -> bool:
        rows, seen = _seen(self._rows)
        if len(rows) < MIN_ROWS:
            return False
        columns = list(zip(*rows, strict=True))
        fitted = _robust_fit([columns[index] for index in seen])
        if fitted is None:
            return False
        coefficients = list(astuple(self.model))
        for index, value in zip(seen, fitted, strict=True):
            coefficients[index] = value
        return self._publish(CostModel(**dict(zip(NAMES, coefficients, strict=True))), rows, seen)

    def _publish(self, model: CostModel, rows: Sequence[Row], seen: Sequence[int]) -> bool:
        short_tokens = self.short_tokens
        if TOKENS in seen:
            boundary = round(min(max(model.boundary(), MIN_SHORT_TOKENS), MAX_SHORT_TOKENS))
            if _differ(short_tokens, boundary):
                short_tokens = boundary
        # Steps as they come, and the lightest and the heaviest of them.
        points = [*rows[:: len(rows) // MIN_ROWS], min(rows), max(rows)]
        old, new = astuple(self.model), astuple(model)
        if (
            self._is_settled
            and short_tokens == self.short_tokens
            and not any(_differ(_dot(old, point), _dot(new, point)) for point in points)
        ):
            return False
        self.model, self.is_fitted, self.short_tokens = model, True, short_tokens
        self._measured.update(seen)
        self._is_settled = len(self._rows) >= self._refit_every
        return True


def _seen(window: Iterable[Row]) -> tuple[list[Row], list[int]]:
    """The columns that enough rows have, and the rows that have no others."""
    rows = list(window)
    counts = [len(rows) - column.count(0.0) for column in zip(*rows, strict=True)]
    rare = [index for index, count in enumerate(counts) if 0 < count < MIN_ROWS]
    if rare:
        rows = [row for row in rows if not any(row[index] for index in rare)]
    return rows, [index for index, count in enumerate(counts) if count >= MIN_ROWS]


def _robust_fit(columns: list[tuple[float, ...]]) -> list[float] | None:
    """Coefficients with which the columns add up to 1 in every row, but for errors; None when they
    cannot be known."""
    gram = [[0.0] * len(columns) for _ in columns]
    for i, column in enumerate(columns):
        for j in range(i + 1):
            gram[i][j] = gram[j][i] = _dot(column, columns[j])
    moments = [sum(column) for column in columns]
    fitted = _fit(gram, moments)
    if fitted is None:
        return None
    errors = [-1.0] * len(columns[0])
    for value, column in zip(fitted, columns, strict=True):
        if value:
            errors = [error + value * x for error, x in zip(errors, column, strict=True)]
    deviations = sorted(map(abs, errors))
    limit = OUTLIER_DEVIATIONS * deviations[len(deviations) // 2]
    if deviations[-1] <= limit:
        return fitted
    for row, error in zip(zip(*columns, strict=True), errors, strict=True):
        if abs(error) > limit:
            for i, x in enumerate(row):
                moments[i] -= x
                for j, y in enumerate(row):
                    gram[i][j] -= x * y
    return _fit(gram, moments)


def _fit(gram: Matrix, moments: list[float]) -> list[float] | None:
    if min(gram[i][i] for i in range(len(gram))) <= 0.0:
        return None  # only outliers have one of the terms
    scale = [1.0 / sqrt(gram[i][i]) for i in range(len(gram))]
    scaled = [
        [x * s * t for x, t in zip(row, scale, strict=True)]
        for row, s in zip(gram, scale, strict=True)
    ]
    if condition(scaled) > MAX_CONDITION:
        return None
    fitted = nonnegative(scaled, [m * s for m, s in zip(moments, scale, strict=True)])
    if fitted is None:
        return None
    return [x * s for x, s in zip(fitted, scale, strict=True)]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    product: float = sum(map(mul, one, other))
    return product


def _differ(old: float, new: float) -> bool:
    return abs(new - old) > HYSTERESIS * old
