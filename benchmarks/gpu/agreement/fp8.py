"""The cases of 8-bit floating point: quantising, alone and on the way, and products.

Products are compared with those of bfloat16 on the numbers that the 8-bit ones stand for: what a
user runs who does not quantise.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch
from torch.nn import functional

from gpu.agreement.case import FLOPS_PER_SECOND, Case, Run, Sizes
from lengthwise_kernels.gpu import quantise_rows, rms_norm, scaled_linear, silu_mul
from lengthwise_kernels.gpu.invariant_linear import invariant_linear
from lengthwise_kernels.reference import fp8
from lengthwise_kernels.reference.fp8 import Fp8Rows

FP8_FLOPS_PER_SECOND: Final = 2 * FLOPS_PER_SECOND
"""The matrix units take twice as many 8-bit numbers per cycle."""


def fp8_cases(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """All cases of this module, each made when it is asked for."""
    yield from _quantising(sizes, device, dtype)
    for rows in sizes.linear_rows:
        yield _product(rows, sizes, device, dtype)


def _quantising(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    x, residual = torch.randn(2, sizes.tokens, sizes.hidden, device=device, dtype=dtype)
    weight = torch.randn(sizes.hidden, device=device, dtype=dtype)
    shape = f"{sizes.tokens} x {sizes.hidden}"
    num_bytes = x.numel() + 4 * sizes.tokens
    yield Case(
        op="quantise_rows",
        shape=shape,
        ours=lambda: quantise_rows.quantise_rows(x).values,
        rivals=_eager_and_compiled(lambda: fp8.quantise_rows(x).values, device),
        num_bytes=x.nbytes + num_bytes,
    )
    yield Case(
        op="add_rms_norm_fp8",
        shape=shape,
        ours=lambda: quantise_rows.add_rms_norm_fp8(x, residual, weight, 1e-6)[0].values,
        rivals={
            "two kernels": lambda: (
                quantise_rows.quantise_rows(
                    rms_norm.add_rms_norm(x, residual, weight, 1e-6)[0]
                ).values
            ),
            **_eager_and_compiled(
                lambda: fp8.add_rms_norm_fp8(x, residual, weight, 1e-6)[0].values, device
            ),
        },
        num_bytes=3 * x.nbytes + num_bytes,
    )
    gate_up = torch.randn(sizes.tokens // 4, 2 * sizes.inner, device=device, dtype=dtype)
    yield Case(
        op="silu_mul_fp8",
        shape=f"{sizes.tokens // 4} x {sizes.inner}",
        ours=lambda: quantise_rows.silu_mul_fp8(gate_up).values,
        rivals={
            "two kernels": lambda: quantise_rows.quantise_rows(silu_mul.silu_mul(gate_up)).values,
            **_eager_and_compiled(lambda: fp8.silu_mul_fp8(gate_up).values, device),
        },
        num_bytes=gate_up.nbytes + gate_up.numel() // 2 + sizes.tokens,
    )


def _product(rows: int, sizes: Sizes, device: str, dtype: torch.dtype) -> Case:
    """The projection to twice the inner size, the largest of a layer."""
    x = fp8.quantise_rows(torch.randn(rows, sizes.hidden, device=device))
    weight = fp8.quantise_rows(torch.randn(2 * sizes.inner, sizes.hidden, device=device))
    full_x, full_weight = _dequantised(x, dtype), _dequantised(weight, dtype)
    name = str(dtype).removeprefix("torch.")
    rivals: dict[str, Run] = {
        f"torch {name}": partial(functional.linear, full_x, full_weight),
        f"invariant {name}": partial(invariant_linear, full_x, full_weight, None),
        "invariant": partial(scaled_linear.scaled_linear, x, weight, None, dtype, invariant=True),
        "triton": partial(scaled_linear.triton_linear, x, weight, None, dtype),
    }
    if device == "cuda":
        rivals["exact accumulation"] = partial(
            scaled_linear.library_linear, x, weight, None, fast=False
        )
    return Case(
        op="scaled_linear",
        shape=f"{rows} x {sizes.hidden} x {2 * sizes.inner}",
        ours=partial(scaled_linear.scaled_linear, x, weight, None, dtype),
        rivals=rivals,
        num_bytes=x.values.nbytes + weight.values.nbytes + 2 * rows * sizes.inner * dtype.itemsize,
        flops=4 * rows * sizes.hidden * sizes.inner,
        flops_per_second=FP8_FLOPS_PER_SECOND,
    )


def _eager_and_compiled(run: Run, device: str) -> dict[str, Run]:
    """PyTorch as it is and, on a GPU, compiled."""
    compiled: Callable[..., Any] = torch.compile
    return {"torch eager": run, **({"torch.compile": compiled(run)} if device == "cuda" else {})}


def _dequantised(rows: Fp8Rows, dtype: torch.dtype) -> torch.Tensor:
    return (rows.values.float() * rows.scales.unsqueeze(1)).to(dtype)
