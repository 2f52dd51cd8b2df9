"""A recorded sequence of launches: the seam between steps and CUDA graphs.

Invariant: a body that is captured depends on tensors and on what its graph was chosen by, and on
nothing else of the step; it waits for nothing and reads nothing back from the device.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

Body = Callable[[], object]


class Graph(Protocol):
    """What a body launched when it was captured."""

    def replay(self) -> None:
        """Launch the same again, on the current stream: same tensors, whatever is in them now."""


class Recorder(Protocol):
    """Captures bodies on one device. What it counts is of this process alone."""

    def measure(self, body: Body) -> int:
        """Compute `body`; the most bytes that it had allocated at once."""

    def capture(self, body: Body) -> Graph:
        """Record what `body` launches, without computing it. It has been measured before, so that
        every kernel is compiled.

        Raises `torch.OutOfMemoryError` when the device has no room for the graph.
        """

    def pool_bytes(self) -> int:
        """What captured bodies allocate from, all of them together: it grows to what the largest
        one needs."""


class CudaRecorder:
    """Captures CUDA graphs, which share the memory of what they compute in between: they are
    replayed one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._is_empty = True

    def measure(self, body: Body) -> int:
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        body()
        return torch.cuda.max_memory_allocated(self._device) - before

    def capture(self, body: Body) -> Graph:
        graph = torch.cuda.CUDAGraph()
        self._is_empty = False
        # Other threads go on waiting for events and copying meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            body()
        return graph

    def pool_bytes(self) -> int:
        # Not `mem_get_info`: other processes may use the device too.
        if self._is_empty:
            return 0
        segments = torch.cuda.memory.memory_snapshot(self._pool)  # type: ignore[no-untyped-call]
        return sum(segment["total_size"] for segment in segments)
