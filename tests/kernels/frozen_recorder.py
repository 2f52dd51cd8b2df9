"""A stand-in for CUDA graphs on machines without a GPU."""

from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lengthwise_engine.runner.graph_recorder import Body, Graph


class FrozenRecorder:
    """Records nothing and calls the body again: what it took from its surroundings when it was
    captured stays what it was, so a step's own lengths or lists show as wrong tokens. Raises
    RuntimeError where a body asks the device something, as a GPU's recorder would.

    `step_bytes` is what a step is said to allocate; as on a GPU, graphs share it.
    """

    def __init__(self, step_bytes: int = 0) -> None:
        self.step_bytes = step_bytes
        self._pool_bytes = 0

    def measure(self, body: Body) -> int:
        body()
        return self.step_bytes

    def capture(self, body: Body) -> Graph:
        self._pool_bytes = max(self._pool_bytes, self.step_bytes)
        return _FrozenGraph(body)

    def pool_bytes(self) -> int:
        return self._pool_bytes


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
