"""Virtual time: what is to happen, in the order of its instants; equal instants in the order in
which they were asked for, so that equal input gives equal runs."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class EventHeap:
    """Time stands still while an event happens."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        """That have happened."""
        self._asked = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """`action(*arguments)` happens at `when`, or now if that has passed."""
        self._asked += 1
        heappush(self._heap, (max(when, self.now), self._asked, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self._asked += 1
        heappush(self._heap, (self.now + max(seconds, 0.0), self._asked, action, arguments))

    def stop(self) -> None:
        """Nothing that is left happens."""
        self._heap.clear()

    def run(self) -> None:
        """Until nothing is left to happen."""
        heap = self._heap
        while heap:
            self.now, _, action, arguments = heappop(heap)
            self.num_events += 1
            action(*arguments)
