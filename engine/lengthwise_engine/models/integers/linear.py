"""A projection with integers for weights, on CPUs; its inputs stay as they are."""

from dataclasses import dataclass
from typing import Final, Protocol

import torch

from lengthwise_engine.models.integers.codes import Codes
from lengthwise_engine.models.linear import Unfused
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.int4 import Int4Weight, int4_bytes
from lengthwise_kernels.int8 import Int8Weight, int8_bytes, multiplies_int8

_ROWS: Final = 256
"""Computed at once: for 8 bits there are two sums of 32 bits for each result."""


class IntegerWeight(Protocol):
    """Weights [out, in] as a kernel reads them."""

    @property
    def num_bytes(self) -> int: ...

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x weight^T, in the type of x or in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLinear(Unfused):
    """The sum of the products with `parts`: one, or for 8 bits in groups their high and low halves.

    A row of the result never depends on the others.
    """

    parts: tuple[IntegerWeight, ...]
    bias: torch.Tensor | None
    order: torch.Tensor | None = None

    @classmethod
    def of(cls, codes: Codes, bias: torch.Tensor | None, dtype: torch.dtype) -> "IntegerLinear":
        """To compute in `dtype`. Errors: ValueError for groups that no kernel has."""
        return cls(parts=_parts(codes, dtype), bias=bias, order=codes.order)

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > _ROWS:
            return torch.cat([self(piece) for piece in torch.split(x, _ROWS)])
        if self.order is not None:
            x = x[:, self.order]
        result = self.parts[0].product(x)
        for part in self.parts[1:]:
            result = result.float().add_(part.product(x))
        if self.bias is not None:
            result = result + self.bias
        return result.to(x.dtype)

    def in_any_batch(self) -> "IntegerLinear":
        return self


def check_integers(device: torch.device) -> None:
    """Raises `UnsupportedByKernel` unless integer weights are computed there."""
    if device.type != "cpu":
        raise UnsupportedByKernel(
            f"projections of 8 or 4 bits are computed on CPUs alone, and this is {device}; use"
            " quantization: fp8 with a full checkpoint"
        )


def integer_bytes(
    num_inputs: int, num_outputs: int, *, bits: int, group_size: int, is_plain: bool, item: int
) -> int:
    """Of an `IntegerLinear`, without its bias, that computes in numbers of `item` bytes."""
    if bits == 8 and is_plain and multiplies_int8():
        return int8_bytes(num_inputs, num_outputs)
    return bits // 4 * int4_bytes(num_inputs, num_outputs, group_size, item)


def _parts(codes: Codes, dtype: torch.dtype) -> tuple[IntegerWeight, ...]:
    if codes.bits == 8 and codes.is_plain and multiplies_int8():
        signed = codes.values.view(torch.int8) ^ -128
        return (Int8Weight.of(signed, codes.scales.squeeze(1)),)
    if codes.bits == 4:
        return (_int4(codes, codes.values, codes.scales, 8.0 - codes.zeros, dtype),)
    high, low = codes.values >> 4, codes.values & 15
    # 16 (high - 8) + (low - 8) = value - 136.
    return (
        _int4(codes, high, 16 * codes.scales, torch.zeros_like(codes.zeros), dtype),
        _int4(codes, low, codes.scales, 136.0 - codes.zeros, dtype),
    )


def _int4(
    codes: Codes,
    values: torch.Tensor,
    scales: torch.Tensor,
    steps: torch.Tensor,
    dtype: torch.dtype,
) -> Int4Weight:
    """`steps` is how many of `codes.scales` are to be added to a weight."""
    return Int4Weight.of(
        values, scales, steps * codes.scales, group_size=codes.group_size, dtype=dtype
    )
