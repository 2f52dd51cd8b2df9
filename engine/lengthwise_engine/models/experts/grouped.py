"""A layer's experts on a GPU: two products for all of them, in which each row has its expert's
matrix. Nothing is read back, and shapes depend on the number of rows alone: graphs hold it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from lengthwise_engine.models.experts.routed import Expert
from lengthwise_engine.models.linear import Fp8Linear, Linear, Projection
from lengthwise_kernels.dispatch import (
    Fp8Rows,
    combine,
    gathered_linear,
    quantise_rows,
    route,
    scattered_linear,
    silu_mul,
    silu_mul_fp8,
)

Matrices = torch.Tensor | Fp8Rows
"""One for each expert, [experts, out, in]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedExperts:
    """As `Experts`, but that a row's results are added in the order of its choices; invariant where
    its router is. `gate_up` and `down` are in the type that the model computes in, or 8-bit
    floating point."""

    router: Projection
    gate_up: Matrices
    down: Matrices
    num_chosen: int
    is_normalised: bool
    first: int = 0

    @classmethod
    def of(
        cls,
        experts: Iterable[Expert],
        count: int,
        router: Projection,
        *,
        num_chosen: int,
        is_normalised: bool,
        first: int,
    ) -> "GroupedExperts":
        """Of `count` experts, of which there is never more than one beside the result."""
        gate_up, down = _Stack(count), _Stack(count)
        for expert in experts:
            gate_up.add(expert.gate_up)
            down.add(expert.down)
        return cls(
            router=router,
            gate_up=gate_up.matrices(),
            down=down.matrices(),
            num_chosen=num_chosen,
            is_normalised=is_normalised,
            first=first,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, hidden]: the weighted sum of those that each row takes, added in float32."""
        routes = route(self.router(x), self.num_chosen, is_normalised=self.is_normalised)
        routes = routes.of(range(self.first, self.first + self._count))
        is_rounded = isinstance(self.gate_up, Fp8Rows)
        rows = quantise_rows(x) if is_rounded else x
        inner = gathered_linear(rows, self.gate_up, routes, x.dtype)
        gated = silu_mul_fp8(inner) if is_rounded else silu_mul(inner)
        parts = scattered_linear(gated, self.down, routes, x.dtype)
        return combine(parts, routes)

    def in_any_batch(self) -> "GroupedExperts":
        return replace(self, router=self.router.in_any_batch())

    @property
    def _count(self) -> int:
        return len(self.gate_up.values if isinstance(self.gate_up, Fp8Rows) else self.gate_up)


class _Stack:
    """Projections of one kind and shape become one tensor, one by one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: torch.Tensor | None = None
        self._scales: torch.Tensor | None = None
        self._added = 0

    def add(self, projection: Projection) -> None:
        if isinstance(projection, Fp8Linear):
            scales = projection.weight.scales
            self._scales = self._put(self._scales, scales)
            self._values = self._put(self._values, projection.weight.values)
        elif isinstance(projection, Linear):
            self._values = self._put(self._values, projection.weight)
        else:
            raise TypeError(f"experts on GPUs are full or FP8, got {type(projection).__name__}")
        self._added += 1

    def matrices(self) -> Matrices:
        assert self._values is not None
        if self._scales is None:
            return self._values
        return Fp8Rows(values=self._values, scales=self._scales)

    def _put(self, stack: torch.Tensor | None, one: torch.Tensor) -> torch.Tensor:
        if stack is None:
            stack = one.new_empty((self._count, *one.shape))
        stack[self._added].copy_(one)
        return stack
