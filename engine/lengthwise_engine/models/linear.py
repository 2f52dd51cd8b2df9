"""A projection: how it is stored, and how it is computed.

A model does not know which kind of projection it has. What comes right before one is asked of it
too, because kernels may do both in one pass.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from lengthwise_kernels.dispatch import (
    Fp8Rows,
    add_rms_norm,
    add_rms_norm_fp8,
    invariant_linear,
    is_alike_alone,
    linear,
    pack,
    quantise_rows,
    scaled_linear,
    silu_mul,
    silu_mul_fp8,
)


class Projection(Protocol):
    """y = x weight^T + bias, [rows, in] to [rows, out]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def after_norm(
        self, x: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the RMS norm of x + residual, with the weights `norm`; and x + residual."""

    def after_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Of silu(gate) * up, where `gate_up` [rows, 2 in] holds gate first."""

    def in_any_batch(self) -> "Projection":
        """The same, such that no row of y depends on how many others there are."""


class Unfused(ABC):
    """A projection that computes what comes before it apart."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Projection`."""

    def after_norm(
        self, x: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed, total = add_rms_norm(x, residual, norm, eps)
        return self(normed), total

    def after_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        return self(silu_mul(gate_up))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Unfused):
    """In the type the model computes in; `weight` is [out, in], plain or packed. `lone`: as for
    `invariant_linear`, of one that is `invariant`."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    invariant: bool = False
    lone: bool = False

    def packed(self) -> "Linear":
        """The same projection, computed faster from a copy of its weight."""
        return replace(self, weight=pack(self.weight))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.invariant:
            return invariant_linear(x, self.weight, self.bias, lone=self.lone)
        return linear(x, self.weight, self.bias)

    def in_any_batch(self) -> "Linear":
        return replace(self, invariant=True, lone=is_alike_alone(self.weight))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Linear:
    """In 8-bit floating point, with a scale for each output and, found anew, for each row of x.

    `bias` and the result are in the type the model computes in, `dtype`.
    """

    weight: Fp8Rows
    bias: torch.Tensor | None
    dtype: torch.dtype
    invariant: bool = False

    @classmethod
    def of(cls, full: Linear) -> "Fp8Linear":
        """The same projection, rounded."""
        dtype = full.weight.dtype
        return cls(weight=quantise_rows(full.weight), bias=full.bias, dtype=dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._project(quantise_rows(x))

    def after_norm(
        self, x: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, total = add_rms_norm_fp8(x, residual, norm, eps)
        return self._project(rows), total

    def after_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        return self._project(silu_mul_fp8(gate_up))

    def in_any_batch(self) -> "Fp8Linear":
        return replace(self, invariant=True)

    def _project(self, rows: Fp8Rows) -> torch.Tensor:
        return scaled_linear(rows, self.weight, self.bias, self.dtype, invariant=self.invariant)
