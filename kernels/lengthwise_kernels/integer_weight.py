"""Integers for weights, with scales, as a kernel reads them."""

from typing import Protocol

import torch


class IntegerWeight(Protocol):
    """Weights [out, in]."""

    @property
    def num_bytes(self) -> int: ...

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x weight^T, in the type of x or in float32."""

    def in_any_batch(self) -> "IntegerWeight":
        """The same, such that no row of a product depends on how many others there are."""
