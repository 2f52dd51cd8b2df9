"""Our projections in the place of transformers'."""

from collections.abc import Iterator
from typing import Any

import torch

from lengthwise_engine.models.linear import Linear
from lengthwise_kernels.dispatch import packs


class ForeignProjection(torch.nn.Module):
    """A projection of ours where a model has a `torch.nn.Linear`, or GPT-2's `Conv1D`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._num_outputs = weight.shape[0]
        linear = Linear(weight=weight, bias=bias)
        self._fast = linear.packed() if packs(weight.device, weight.dtype) else linear
        self._chosen = self._fast

    @property
    def weight(self) -> torch.Tensor:
        """Some models ask for its type."""
        return self._fast.weight

    def set_invariant(self, is_invariant: bool) -> None:
        self._chosen = self._fast.in_any_batch() if is_invariant else self._fast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._chosen(x.flatten(0, -2)).view(*x.shape[:-1], self._num_outputs)


def put_projections(model: Any) -> None:
    """One by one: never more than one of them is there twice."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, ForeignProjection(child.weight, child.bias))
            elif type(child).__name__ == "Conv1D":
                weight = child.weight.T.contiguous()
                setattr(parent, name, ForeignProjection(weight, child.bias))


def projections(model: Any) -> Iterator[ForeignProjection]:
    return (each for each in model.modules() if isinstance(each, ForeignProjection))
