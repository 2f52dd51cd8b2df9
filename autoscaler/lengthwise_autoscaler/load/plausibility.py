"""Which numbers a release can have: beyond them an answer is no reason to scale.

Workers are known from Kubernetes, so neither their number nor the time they are busy is believed
beyond it. What nothing else bounds is bounded by what no release has, which also keeps all
arithmetic on it finite.
"""

from collections import deque
from collections.abc import Mapping
from math import isfinite, isnan

from lengthwise_autoscaler.load.queries import QueryName

MOST = 1e12
"""Tokens, blocks, requests, or of them per second: ten thousand workers with contexts of ten
million tokens hold a tenth of it."""

LEAST = 1e-15
"""Smaller ones are zero or wrong: a rate within a window of a day is larger, and so is what one
token costs."""

DAY_SECONDS = 86_400.0

SECONDS_OF_TOKEN = 60.0
"""Of one worker: a model of hundreds of billions of parameters on a CPU needs a tenth of it."""

_MOST: Mapping[QueryName, float] = {
    "scraped": 1.0,
    "ttft": DAY_SECONDS,
    "tpot": DAY_SECONDS,
    "queue_seconds": DAY_SECONDS,
    "cost": SECONDS_OF_TOKEN,
    "block_tokens": 65536.0,
}
_OF_WORKERS: frozenset[QueryName] = frozenset({"decode_workers", "mean_workers", "prefill_busy"})
_OBSERVED: frozenset[QueryName] = frozenset({"ttft", "tpot", "queue_seconds", "output_tokens"})
"""NaN there means that nothing was observed within the window."""


def expected_of(name: QueryName, value: float, workers: float | None) -> str:
    """What was expected instead of `value`; empty where it is plausible.

    `workers`: the most of the row's pool; None where the row is of no pool.
    """
    if name in _OBSERVED and isnan(value):
        return ""
    if name in _OF_WORKERS and workers is not None:
        most, why = workers, ", for so many workers its pool has"
    else:
        most, why = _MOST.get(name, MOST), ""
    if isfinite(value) and (value == 0 or LEAST <= value <= most):
        return ""
    return f"a number from 0 to {most:g}{why}"


class MostWorkers:
    """How many workers each pool had at most within the last `seconds`, as Prometheus may count
    them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque()

    def see(self, now: float, pods: Mapping[str, int]) -> Mapping[str, float]:
        """`pods`: those of each pool at this moment, in whatever phase. Half as many again and one
        are allowed: what has left is scraped for some seconds longer than it is listed."""
        self._seen.append((now, pods))
        while self._seen[0][0] < now - self._seconds:
            self._seen.popleft()
        return {
            pool: 1.5 * max(counts.get(pool, 0) for _, counts in self._seen) + 1 for pool in pods
        }
