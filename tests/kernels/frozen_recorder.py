"""A stand-in for CUDA graphs on machines without a GPU."""

from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lengthwise_engine.runner.graph_recorder import Body, Graph


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
