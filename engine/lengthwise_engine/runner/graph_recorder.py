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
    """Captures bodies on one device."""

    def capture(self, body: Body) -> Graph:
        """Record what `body` launches, without computing it. It has been called before, so that
        every kernel is compiled.

        Raises `torch.OutOfMemoryError` when the device has no room for the graph.
        """

    def used_bytes(self) -> int:
        """Memory of the device that is in use, for whatever."""


class CudaRecorder:
    """Captures CUDA graphs, which share the memory of what they compute in between: they are
    replayed one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle()

    def capture(self, body: Body) -> Graph:
        graph = torch.cuda.CUDAGraph()
        # Other threads go on waiting for events and copying meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            body()
        return graph

    def used_bytes(self) -> int:
        # Capturing gives back what PyTorch only keeps for later; so that is not counted before.
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free
