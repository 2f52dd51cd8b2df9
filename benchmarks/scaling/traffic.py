"""Requests for the autoscaling simulation: shapes of load, and a real trace.

Pure: equal arguments give equal traffic. Lengths of the made-up shapes are log-normal with the
medians and spreads of the Azure conversation trace, except where a shape says otherwise.
"""

import math
from collections.abc import Callable, Iterator
from itertools import takewhile
from random import Random

from lengthwise_simulator.workload.arrivals import gamma, varying
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request

Rate = Callable[[float], float]
"""Requests per second at an instant."""

Tokens = Callable[[Random, float], tuple[int, int]]
"""Prompt and output tokens of a request that comes at an instant."""


def chat(draw: Random, at: float) -> tuple[int, int]:
    """Medians 800 and 130 tokens, means near 1,150 and 210."""
    return _tokens(draw, 800, 0.85, 8000), _tokens(draw, 130, 0.98, 1000)


def code(draw: Random, at: float) -> tuple[int, int]:
    """As in the Azure code trace: medians 1,470 and 13 tokens, means near 2,050 and 28."""
    return _tokens(draw, 1470, 0.82, 7437), _tokens(draw, 13, 1.24, 500)


def phases(seconds: float) -> Tokens:
    """Long prompts with short replies, then short prompts with long replies, in turn."""

    def draw_tokens(draw: Random, at: float) -> tuple[int, int]:
        if int(at / seconds) % 2:
            return _tokens(draw, 150, 0.5, 2000), _tokens(draw, 450, 0.4, 2000)
        return _tokens(draw, 1800, 0.4, 6000), _tokens(draw, 40, 0.5, 500)

    return draw_tokens


def poisson(
    rate: Rate, peak: float, seconds: float, tokens: Tokens, seed: int
) -> list[ArrivingRequest]:
    """Arrivals at a rate that changes, never above `peak`."""
    draw = Random(seed)
    return _requests(varying(rate, peak, draw), seconds, tokens, draw)


def bursts(
    rate: float, variation: float, seconds: float, tokens: Tokens, seed: int
) -> list[ArrivingRequest]:
    """Gamma gaps with this coefficient of variation: 13 is the Azure code trace's."""
    draw = Random(seed)
    return _requests(gamma(rate, variation, draw), seconds, tokens, draw)


def step(low: float, high: float, begin: float, end: float) -> Rate:
    return lambda at: high if begin <= at < end else low


def up_and_down(low: float, high: float, seconds: float) -> Rate:
    return lambda at: low + (high - low) * (1 - abs(2 * at / seconds - 1))


def _requests(
    times: Iterator[float], seconds: float, tokens: Tokens, draw: Random
) -> list[ArrivingRequest]:
    return [
        single_request(at, *tokens(draw, at), key=key)
        for key, at in enumerate(takewhile(lambda at: at < seconds, times), 1)
    ]


def _tokens(draw: Random, median: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(draw.lognormvariate(math.log(median), sigma))))
