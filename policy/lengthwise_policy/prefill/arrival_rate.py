"""How often something happens, recent times counting most. O(1) per event and per question."""

from math import exp


class ArrivalRate:
    """Events per second, each forgotten exponentially.

    An event adds 1 / memory and decays with exp(-age / memory): in a steady stream the sum is the
    rate, and one event after a silence counts as one per `memory_seconds`.
    """

    def __init__(self, memory_seconds: float = 1.0) -> None:
        self._memory = memory_seconds
        self._rate = 0.0
        self._last = 0.0

    def arrived(self, at: float) -> None:
        """An event; one older than the last counts as if it had come with it."""
        self._rate = self.per_second(at) + 1 / self._memory
        self._last = max(at, self._last)

    def per_second(self, now: float) -> float:
        return self._rate * exp(-max(now - self._last, 0.0) / self._memory)
