"""Prompt lengths like those of LMSYS-Chat-1M's first turns, without the data.

The quantiles are those of the 100,000 lengths that efeslab/Nanoflow publishes (Apache-2.0); between
two of them lengths grow by equal factors. 500 lengths have 93 tokens on average, those published
92, and LAPS' measurements used 500 with about 102.
"""

import math
import random
from bisect import bisect_left
from typing import Final

QUANTILES: Final = (
    (0.0, 2),
    (0.05, 3),
    (0.1, 6),
    (0.2, 10),
    (0.3, 14),
    (0.4, 19),
    (0.5, 28),
    (0.6, 40),
    (0.7, 66),
    (0.75, 82),
    (0.8, 109),
    (0.85, 179),
    (0.9, 302),
    (0.95, 432),
    (0.98, 639),
    (0.99, 750),
    (0.999, 1322),
    (1.0, 3894),
)
"""Share of prompts, and the tokens that so many have at most."""


def quantile(share: float) -> int:
    """The tokens that `share` of all prompts have at most, from 0 to 1."""
    place = max(1, bisect_left(QUANTILES, (share, 0)))
    (low, few), (high, many) = QUANTILES[place - 1], QUANTILES[place]
    return round(few * math.exp(math.log(many / few) * (share - low) / (high - low)))


def prompt_lengths(count: int, seed: int) -> list[int]:
    """One from each `count`th of the distribution, shuffled: every seed has the same lengths in
    another order, so that repeats differ by their order alone."""
    lengths = [quantile((place + 0.5) / count) for place in range(count)]
    random.Random(seed).shuffle(lengths)
    return lengths
