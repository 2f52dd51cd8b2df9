"""Our projections in the place of transformers'."""

from collections.abc import Iterator
from typing import Any

import torch

from lengthwise_engine.models.linear import Linear
from lengthwise_kernels.dispatch import packs, packs_copy


class ForeignProjection(torch.nn.Module):
    """A projection of ours where a model has a `torch.nn.Linear`, or GPT-2's `Conv1D`."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, is_tied: bool = False
    ) -> None:
        """`is_tied`: the weight is the embedding, too."""
        super().__init__()
        self._num_outputs = weight.shape[0]
        linear = Linear(weight=weight, bias=bias)
        is_packed = packs(weight.device, weight.dtype) if is_tied else packs_copy(weight)
        self._fast = linear.packed() if is_packed else linear
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
    embedding = model.get_input_embeddings().weight
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                is_tied = child.weight is embedding
                setattr(parent, name, ForeignProjection(child.weight, child.bias, is_tied=is_tied))
            elif type(child).__name__ == "Conv1D":
                weight = child.weight.T.contiguous()
                setattr(parent, name, ForeignProjection(weight, child.bias))


def projections(model: Any) -> Iterator[ForeignProjection]:
    return (each for each in model.modules() if isinstance(each, ForeignProjection))
