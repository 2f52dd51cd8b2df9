"""The rate that a deployment stands: the highest at which enough of its requests meet their
objectives (DistServe's goodput)."""

from collections.abc import Callable
from dataclasses import dataclass

from lengthwise_simulator.results import RunSummary

MAX_RUNS = 24
"""Of one search; bisection needs 7 for 1 % of a rate known within a factor of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoodRate:
    """`summary` is of the highest rate tried at which the attainment was reached; `failed` of the
    lowest above it."""

    rate: float  # requests a second; 0: at no rate
    summary: RunSummary | None
    failed: RunSummary | None
    runs: int


def highest_rate(
    run: Callable[[float], RunSummary], *, guess: float, attainment: float, precision: float
) -> StoodRate:
    """By bisection, from `guess` on, until the bounds differ by the share `precision` of the upper
    one. A rate below a hundredth of the guess counts as none."""
    low, high = 0.0, float("inf")
    rate = guess
    stood: RunSummary | None = None
    failed: RunSummary | None = None
    runs = 0
    while runs < MAX_RUNS and high > guess / 100:
        summary = run(rate)
        runs += 1
        if summary.attainment >= attainment:
            low, stood = rate, summary
        else:
            high, failed = rate, summary
        if high - low <= precision * min(high, 2 * low):
            break
        rate = 2 * low if high == float("inf") else (low + high) / 2
    return StoodRate(rate=low, summary=stood, failed=failed, runs=runs)
