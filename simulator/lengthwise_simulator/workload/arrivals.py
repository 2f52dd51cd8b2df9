"""When requests arrive: instants in seconds, without end, drawn from a `Random` of the caller."""

from collections.abc import Callable, Iterator
from math import cos, inf, pi
from random import Random

from lengthwise_simulator.errors import SimulationError

LEAST_RATE, MOST_RATE = 1e-6, 1e6
MOST_VARIATION = 100.0
"""Far beyond any trace; Gamma variates of less shape are nearly all 0."""


def poisson(rate: float, draw: Random) -> Iterator[float]:
    """Independent arrivals, `rate` a second."""
    return gamma(rate, 1.0, draw)


def gamma(rate: float, variation: float, draw: Random) -> Iterator[float]:
    """Gaps of a Gamma distribution; `variation` is their coefficient of variation: 1 is Poisson, 0
    is regular, Azure's code trace has 13. BurstGPT's generator draws its arrivals so."""
    _require_rate(rate)
    if not 0 <= variation <= MOST_VARIATION:
        raise SimulationError(
            f"variation: got {variation:g}, expected a number from 0 to {MOST_VARIATION:g}"
        )
    at = 0.0
    shape = inf if variation == 0 else variation**-2
    while True:
        at += 1 / rate if shape == inf else draw.gammavariate(shape, 1 / (rate * shape))
        yield at


def varying(rate_at: Callable[[float], float], most: float, draw: Random) -> Iterator[float]:
    """Independent arrivals at a rate that changes, never above `most` (thinning); ends never, also
    where the rate stays 0."""
    _require_rate(most)
    for at in poisson(most, draw):
        if draw.random() * most < rate_at(at):
            yield at


def ramp(first: float, last: float, seconds: float) -> Callable[[float], float]:
    """From one rate to another, and there it stays."""
    return lambda at: first + (last - first) * min(at / seconds, 1.0)


def steps(rates: tuple[float, ...], seconds: float) -> Callable[[float], float]:
    """One rate after the other, for so long each, and again."""
    return lambda at: rates[int(at / seconds) % len(rates)]


def diurnal(least: float, most: float, seconds: float) -> Callable[[float], float]:
    """A wave that begins at its least."""
    return lambda at: least + (most - least) * (1 - cos(2 * pi * at / seconds)) / 2


def _require_rate(rate: float) -> None:
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise SimulationError(
            f"rate: got {rate:g}, expected {LEAST_RATE:g} to {MOST_RATE:g} requests a second"
        )
