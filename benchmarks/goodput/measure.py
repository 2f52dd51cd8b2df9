"""From outcomes to goodput, with intervals. Pure.

An arm's goodput under an objective is the highest rate at which 90 % of its requests meet it
(DistServe), interpolated between the rungs of the ladder. Where they do on every rung it is the
last one's rate, a lower bound; where on none, the first one's in proportion.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from goodput.player import Outcome

WANTED: Final = 0.9
RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a request has to meet, both of it."""

    name: str
    ttft_seconds: float
    tpot_seconds: float

    @property
    def column(self) -> str:
        """Of a table: the share of requests that met it."""
        return f"met_{self.ttft_seconds:g}s_{self.tpot_seconds * 1e3:g}ms"

    def is_met(self, outcome: Outcome) -> bool:
        return (
            outcome.ttft_seconds <= self.ttft_seconds and outcome.tpot_seconds <= self.tpot_seconds
        )


OBJECTIVES: Final = (
    Objective(name="2 s, 200 ms", ttft_seconds=2.0, tpot_seconds=0.2),
    Objective(name="1 s, 150 ms", ttft_seconds=1.0, tpot_seconds=0.15),
)

Rungs = Mapping[float, Sequence[bool]]
"""By rate: whether each request met the objective, in the order in which they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def attainment(met: Sequence[bool]) -> Estimate:
    """The share of requests that met it, and Wilson's interval."""
    n, share = len(met), sum(met) / len(met)
    z = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    middle = share + z * z / (2 * n)
    spread = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return Estimate(
        value=share,
        low=max(0.0, (middle - spread) / scale),
        high=min(1.0, (middle + spread) / scale),
    )


def goodput(rungs: Rungs) -> float:
    """Requests a second."""
    shares = [(rate, sum(met) / len(met)) for rate, met in sorted(rungs.items())]
    rate, share = shares[0]
    if share < WANTED:
        return rate * share / WANTED
    for next_rate, next_share in shares[1:]:
        if next_share < WANTED:
            return rate + (next_rate - rate) * (share - WANTED) / (share - next_share)
        rate, share = next_rate, next_share
    return rate


def estimate_goodput(rungs: Rungs, seed: int = 0) -> Estimate:
    """With the interval of a bootstrap over requests."""
    found = [goodput(_resampled(rungs, draw)) for draw in _draws(rungs, seed)]
    return _estimate(goodput(rungs), found)


def estimate_ratio(rungs: Rungs, base: Rungs, seed: int = 0) -> Estimate:
    """Of two arms' goodputs. Paired: both are resampled by the same requests."""
    found = [
        goodput(_resampled(rungs, draw)) / goodput(_resampled(base, draw))
        for draw in _draws(rungs, seed)
        if goodput(_resampled(base, draw)) > 0
    ]
    value = goodput(base)
    return _estimate(goodput(rungs) / value if value else float("inf"), found or [float("inf")])


Draw = Mapping[float, Sequence[int]]


def _draws(rungs: Rungs, seed: int) -> list[Draw]:
    draw = random.Random(seed)
    return [
        {rate: draw.choices(range(len(met)), k=len(met)) for rate, met in rungs.items()}
        for _ in range(RESAMPLES)
    ]


def _resampled(rungs: Rungs, draw: Draw) -> Rungs:
    return {rate: [met[i] for i in draw[rate]] for rate, met in rungs.items()}


def _estimate(value: float, found: list[float]) -> Estimate:
    ordered = sorted(found)
    tail = (1 - CONFIDENCE) / 2
    return Estimate(
        value=value,
        low=ordered[int(tail * (len(ordered) - 1))],
        high=ordered[round((1 - tail) * (len(ordered) - 1))],
    )
