"""A projection with integers for weights; its inputs stay as they are."""

from dataclasses import dataclass, replace
from typing import Final

import torch

from lengthwise_engine.models.integers.codes import Codes
from lengthwise_engine.models.linear import Unfused
from lengthwise_kernels.dispatch import pack_int4
from lengthwise_kernels.int4 import int4_bytes, int4_tiles_bytes
from lengthwise_kernels.int8 import Int8Weight, int8_bytes, multiplies_int8
from lengthwise_kernels.integer_weight import IntegerWeight

_ROWS: Final = 256
"""Computed at once on a CPU: for 8 bits there are two sums of 32 bits for each result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLinear(Unfused):
    """The sum of the products with `parts`: one, or for 8 bits in groups their high and low halves.

    On CPUs a row of the result never depends on the others.
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
        if len(x) > _ROWS and not x.is_cuda:
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
        return replace(self, parts=tuple(part.in_any_batch() for part in self.parts))


def integer_bytes(
    num_inputs: int,
    num_outputs: int,
    *,
    bits: int,
    group_size: int,
    is_plain: bool,
    item: int,
    on_gpu: bool,
) -> int:
    """Of an `IntegerLinear`, without its bias, that computes in numbers of `item` bytes."""
    if bits == 8 and is_plain and not on_gpu and multiplies_int8():
        return int8_bytes(num_inputs, num_outputs)
    each = int4_tiles_bytes if on_gpu else int4_bytes
    return bits // 4 * each(num_inputs, num_outputs, group_size, item)


def _parts(codes: Codes, dtype: torch.dtype) -> tuple[IntegerWeight, ...]:
    if codes.bits == 8 and not codes.values.is_cuda and multiplies_int8() and codes.is_plain:
        signed = codes.values.view(torch.int8) ^ -128
        return (Int8Weight.of(signed, codes.scales.squeeze(1)),)
    if codes.bits == 4:
        return (_int4(codes, codes.values, 1, 8, codes.offsets, dtype),)
    # value = 16 high + low = 16 (high - 8) + (low - 8) + 136.
    high, low = codes.values >> 4, codes.values & 15
    nothing = torch.zeros_like(codes.offsets)
    return (
        _int4(codes, high, 16, 0, nothing, dtype),
        _int4(codes, low, 1, 136, codes.offsets, dtype),
    )


def _int4(
    codes: Codes,
    values: torch.Tensor,
    factor: int,
    centre: int,
    offsets: torch.Tensor,
    dtype: torch.dtype,
) -> IntegerWeight:
    """((values - 8) * factor + centre) * scales + offsets."""
    return pack_int4(
        values,
        factor * codes.scales,
        centre * codes.scales + offsets,
        group_size=codes.group_size,
        dtype=dtype,
    )
