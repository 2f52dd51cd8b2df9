"""A recorded sequence of launches: the seam between steps and CUDA graphs, the real thing, and one
for machines without a GPU.

The rule: a body that is captured depends on tensors and on what its graph was chosen by, and on
nothing else of the step; it waits for nothing and asks the device nothing.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Body = Callable[[], object]


class Graph(Protocol):
    """What a body launched when it was captured."""

    def replay(self) -> None:
        """Launch the same again, on the current stream: same tensors, whatever is in them now."""
        ...


class Recorder(Protocol):
    """Captures bodies on one device."""

    def capture(self, body: Body) -> Graph:
        """Record what `body` launches, without computing it. It has been called before, so that
        every kernel is compiled.

        Raises `torch.OutOfMemoryError` when the device has no room for the graph.
        """
        ...

    def used_bytes(self) -> int:
        """Memory of the device that is in use, for whatever."""
        ...


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


class FrozenRecorder:
    """Records nothing and calls the body again: what it took from its surroundings when it was
    captured stays what it was, so a step's own lengths or lists show as wrong tokens. Raises
    RuntimeError where a body asks the device something, as a GPU's recorder would.

    `graph_bytes` is what each graph is said to take.
    """

    def __init__(self, graph_bytes: int = 0) -> None:
        self._graph_bytes = graph_bytes
        self._count = 0

    def capture(self, body: Body) -> Graph:
        self._count += 1
        return _FrozenGraph(body)

    def used_bytes(self) -> int:
        return self._count * self._graph_bytes


class _FrozenGraph:
    def __init__(self, body: Body) -> None:
        self._body = body

    def replay(self) -> None:
        with _NoQuestions():  # type: ignore[no-untyped-call]
            self._body()


_QUESTIONS: Final = frozenset(
    {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
)
_INDEXING: Final = frozenset({"aten::index", "aten::index_put", "aten::index_put_"})


class _NoQuestions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations whose result the host has to know."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().partition(".")[0]
        # Where a mask holds decides the size of what it picks.
        masked = name in _INDEXING and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if masked or name in _QUESTIONS:
            raise RuntimeError(f"{func.name()} cannot be captured: the host needs its result")
        return func(*args, **(kwargs or {}))
