"""Integers for weights, with scales, as a kernel reads them."""

from typing import Protocol

import torch


class IntegerWeight(Protocol):
    """Weights [out, in]."""

    @property
    def num_bytes(self) -> int: ...

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x weight^T, in the type of x, in float32, or in what the weights were packed for."""

    def in_any_batch(self) -> "IntegerWeight":
        """The same, such that no row of a product depends on how many others there are."""
