"""How fast KV leaves this worker, for routers that predict when a request will be whole elsewhere.

Large transfers count by their bytes, so that the latency of small ones does not hide the rate; old
ones are forgotten.
"""

KEPT = 0.95
"""Of the past with each transfer: the last twenty make up two thirds."""


class TransferRate:
    """Bytes over seconds, both forgotten alike."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0

    def moved(self, num_bytes: int, seconds: float) -> None:
        self._bytes = KEPT * self._bytes + num_bytes
        self._seconds = KEPT * self._seconds + seconds

    @property
    def bytes_per_second(self) -> float:
        """0 until something was moved."""
        return self._bytes / self._seconds if self._seconds > 0 else 0.0
