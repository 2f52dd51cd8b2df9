"""The cases of weights of 4 bits, compared with products of the numbers that they stand for: what a
user runs who does not quantise."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from gpu.agreement.case import Case, Run, Sizes
from lengthwise_kernels.gpu.int4_linear import Int4Tiles
from lengthwise_kernels.gpu.invariant_linear import invariant_linear

GROUP_SIZES: Final = (128, 32)
"""Of GPTQ and AWQ, and of GGUF and our own rounding."""


def int4_cases(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """The projection to twice the inner size, and the narrow one back, each made when it is asked
    for."""
    for group_size in GROUP_SIZES:
        for rows in (1, *sizes.linear_rows):
            yield _product(rows, sizes.hidden, 2 * sizes.inner, group_size, device, dtype)
    yield _product(1, sizes.inner, sizes.hidden, GROUP_SIZES[0], device, dtype)


def _product(
    rows: int, inputs: int, outputs: int, group_size: int, device: str, dtype: torch.dtype
) -> Case:
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, device=device)
    scales = (torch.rand(outputs, -(-inputs // group_size), device=device) + 0.5).to(dtype).float()
    weight = Int4Tiles.of(codes, scales, scales / 2, group_size=group_size, dtype=dtype)
    each = [whole.repeat_interleave(group_size, 1)[:, :inputs] for whole in (scales, scales / 2)]
    full = ((codes.float() - 8) * each[0] + each[1]).to(dtype)
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    rivals: dict[str, Run] = {
        f"torch {name}": partial(functional.linear, x, full),
        f"invariant {name}": partial(invariant_linear, x, full, None),
        "invariant": partial(weight.in_any_batch().product, x),
    }
    return Case(
        op="int4_linear",
        shape=f"{rows} x {inputs} x {outputs} in groups of {group_size}",
        ours=partial(weight.product, x),
        rivals=rivals,
        num_bytes=weight.num_bytes + x.nbytes + rows * outputs * dtype.itemsize,
        flops=2 * rows * inputs * outputs,
    )
