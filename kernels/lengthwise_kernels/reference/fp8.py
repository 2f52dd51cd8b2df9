"""Matrix products of 8-bit floating-point numbers, with one scale for each row of either side.

Numbers are e4m3 (fn: no infinities, largest 448), scales float32. A row's numbers depend
on that row alone, so a token is computed alike in every batch.
"""

from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_kernels.reference.layers import add_rms_norm, silu_mul

E4M3: Final = torch.float8_e4m3fn
E4M3_MAX: Final = 448.0

SMALLEST_PEAK: Final = 2.0**-100
"""Rows below it become zeros: a scale and its inverse have to be normal float32 numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Rows:
    """A matrix: row i is `values[i]` ([rows, size], e4m3) times `scales[i]` ([rows], float32)."""

    values: torch.Tensor
    scales: torch.Tensor

    @property
    def is_cuda(self) -> bool:
        return self.values.is_cuda


def quantise_rows(x: torch.Tensor) -> Fp8Rows:
    """`x` [rows, size] with scale max |x| / 448 for each row, so that no number overflows.

    Numbers are rounded to the nearest; where one is not finite, its row is none either.
    """
    wide = x.float()
    scales = wide.abs().amax(-1).clamp(min=SMALLEST_PEAK) / E4M3_MAX
    values = (wide * scales.reciprocal().unsqueeze(-1)).to(E4M3)
    return Fp8Rows(values=values, scales=scales)


def scaled_linear(
    x: Fp8Rows,
    weight: Fp8Rows,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    *,
    invariant: bool = False,
) -> torch.Tensor:
    """x weight^T + bias, as `dtype` [rows, out]; `weight` has a row for each output.

    The scales are constant along a sum, so they are applied to sums of 8-bit products. Those are
    exact in float64 (multiples of 2^-18 below 2^18 each, for up to 2^17 of them), so that a row's
    result is the same however many rows are computed with it, `invariant` or not.
    """
    sums = (x.values.double() @ weight.values.double().T).float()
    scaled = sums * x.scales.unsqueeze(1) * weight.scales
    return (scaled if bias is None else scaled + bias.float()).to(dtype)


def add_rms_norm_fp8(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[Fp8Rows, torch.Tensor]:
    """`add_rms_norm` of [rows, size], the normalised rows quantised."""
    normed, total = add_rms_norm(x, residual, weight, eps)
    return quantise_rows(normed), total


def silu_mul_fp8(gate_up: torch.Tensor) -> Fp8Rows:
    """`silu_mul` of [rows, 2 size], quantised."""
    return quantise_rows(silu_mul(gate_up))
