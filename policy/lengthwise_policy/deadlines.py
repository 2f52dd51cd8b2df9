"""Which requests are past their deadline, without looking at all of them in every step.

An id is reported at every call until it is discarded.
"""

from heapq import heapify, heappop, heappush

from lengthwise_policy.types import RequestId


class Deadlines:
    """A heap of deadlines in which discarded ids stay until they surface or make up half of it."""

    def __init__(self) -> None:
        self._at: dict[RequestId, float] = {}
        self._heap: list[tuple[float, RequestId]] = []

    def add(self, request_id: RequestId, deadline_at: float) -> None:
        self._at[request_id] = deadline_at
        heappush(self._heap, (deadline_at, request_id))

    def discard(self, request_id: RequestId) -> None:
        self._at.pop(request_id, None)
        if len(self._heap) > 2 * len(self._at) + 64:
            self._heap = [(at, request_id) for request_id, at in self._at.items()]
            heapify(self._heap)

    def passed(self, now: float) -> tuple[RequestId, ...]:
        """The ids whose deadline is at or before `now`, earliest first, ties by id."""
        due: dict[RequestId, float] = {}
        while self._heap and self._heap[0][0] <= now:
            at, request_id = heappop(self._heap)
            if self._at.get(request_id) == at:
                due[request_id] = at
        for request_id, at in due.items():
            heappush(self._heap, (at, request_id))
        return tuple(due)
