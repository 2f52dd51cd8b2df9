"""Virtual time: what is to happen, in the order of its instants; equal instants in the order in
which they were asked for, so that equal input gives equal runs."""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
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
        self.at(self.now + seconds, action, *arguments)

    def run(self, until: float = inf) -> None:
        """Until nothing is left to happen, or what is left would after `until`."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = heappop(heap)
            self.num_events += 1
            action(*arguments)
