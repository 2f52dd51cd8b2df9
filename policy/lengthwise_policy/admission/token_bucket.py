"""A rate with room for bursts: what is taken comes back by and by. `now`, in seconds, is of any
clock that does not go back."""

from lengthwise_policy.checks import require_at_least

ENOUGH = 1.0 - 1e-6
"""A bucket that is filled by fractions never holds a whole to the last bit."""


class TokenBucket:
    """Full at first. More may be taken than it holds: what it owes is paid before anything else.

    Invariant: between any two times at which it held at least `ENOUGH`, no more was taken than
    `capacity`, what came back meanwhile, and the last taking.
    """

    def __init__(self, *, capacity: float, per_second: float) -> None:
        require_at_least("capacity", capacity, 1.0)
        if not per_second > 0.0:
            raise ValueError(f"per_second: got {per_second}, expected more than 0")
        self.capacity = capacity
        self._per_second = per_second
        self._level = capacity
        self._at = float("-inf")

    def level(self, now: float) -> float:
        """What it holds; below 0: what it owes."""
        if now > self._at:
            self._level = min(self.capacity, self._level + self._per_second * (now - self._at))
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def seconds_until(self, amount: float, now: float) -> float:
        """From now until it holds this much, if nothing is taken; 0 where it does."""
        return max(0.0, (min(amount, self.capacity) - self.level(now)) / self._per_second)
