"""How fast counters grow."""

from dataclasses import dataclass

LEAST_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class _Count:
    total: int
    at: float
    per_second: float


class Rates:
    """Of what is counted under each name, between the last two counts."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def count(self, name: str, total: int, now: float) -> None:
        last = self._counts.get(name, _Count(total, now - 1.0, 0.0))
        seconds = max(now - last.at, LEAST_SECONDS)
        self._counts[name] = _Count(total, now, (total - last.total) / seconds)

    def per_second(self, name: str) -> float:
        """0 until there are two counts."""
        return self._counts[name].per_second if name in self._counts else 0.0
