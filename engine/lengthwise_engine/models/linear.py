"""A projection: how it is stored, and how it is computed."""

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """y = x weight^T + bias; `weight` is [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in] becomes [rows, out]."""
        return functional.linear(x, self.weight, self.bias)
