"""At which rates the arms are played: from where every arm meets its objectives to where none does,
as far as the time goes."""

from collections.abc import Mapping, Sequence
from typing import Final

from goodput.measure import WANTED

STEP: Final = 1.25


def next_rate(first: float, shares: Mapping[float, Sequence[float]], most: int) -> float | None:
    """The next rung, requests/s; None: no more are needed, or `most` are there.

    shares: by rate, what share of requests met their objectives, of each arm under each objective.
    """
    if not shares:
        return first
    if len(shares) >= most:
        return None
    lowest, highest = min(shares), max(shares)
    lacks_low = any(share < WANTED for share in shares[lowest])
    lacks_high = any(share >= WANTED for share in shares[highest])
    if lacks_low and (not lacks_high or first / lowest < highest / first):
        return round(lowest / STEP, 4)
    return round(highest * STEP, 4) if lacks_high else None
