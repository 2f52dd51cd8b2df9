"""The cases of adapters: a step whose rows have some, beside the projections that they join."""

from collections.abc import Iterator

import numpy as np
import torch

from gpu.agreement.case import Case, Sizes
from lengthwise_kernels.gpu.adapters.low_rank import add_low_rank, lay_out_adapters
from lengthwise_kernels.low_rank import LowRankProduct, StepAdapters
from lengthwise_kernels.staging import to_device

NUM_ADAPTERS = 64
RANK = 16


def low_rank_cases(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """Rows that take the adapters in turn: of few, each reads another one's tables."""
    num_heads, num_kv_heads, head_dim = sizes.heads
    heads, kv = num_heads * head_dim, num_kv_heads * head_dim
    for rows in sizes.linear_rows:
        yield _case(rows, sizes.hidden, (heads, kv, kv), device, dtype)
        yield _case(rows, sizes.inner, (sizes.hidden,), device, dtype)


def _case(
    rows: int, inputs: int, outputs: tuple[int, ...], device: str, dtype: torch.dtype
) -> Case:
    where = torch.device(device)
    begins = np.cumsum([0, *outputs[:-1]]).tolist()
    parts = list(zip(begins, outputs, strict=True))
    product = LowRankProduct.zeros(NUM_ADAPTERS, RANK, inputs, parts, dtype, where)
    for table in (product.down, product.up):
        table.normal_(std=inputs**-0.5)
    numbers = np.arange(rows) % NUM_ADAPTERS
    step = StepAdapters.bind(to_device(lay_out_adapters(numbers, numbers, NUM_ADAPTERS), where))
    assert step is not None
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    zeros = torch.zeros(rows, sum(outputs), device=device, dtype=dtype)
    downs = product.down.view(NUM_ADAPTERS, inputs, len(outputs) * RANK)

    def by_adapters() -> torch.Tensor:
        """The rows of one adapter after those of another."""
        result = zeros.clone()
        for number in range(min(rows, NUM_ADAPTERS)):
            own = slice(number, None, NUM_ADAPTERS)
            inner = torch.split(x[own] @ downs[number], RANK, dim=1)
            for (begin, size), numbers, (_, up) in zip(parts, inner, product.ups, strict=True):
                table = up.view(NUM_ADAPTERS, RANK, size)[number]
                result[own, begin : begin + size] += numbers @ table
        return result

    used = min(rows, NUM_ADAPTERS)
    return Case(
        op="add_low_rank",
        shape=f"{rows} x {inputs} x {sum(outputs)}, {used} adapters of rank {RANK}",
        ours=lambda: add_low_rank(zeros.clone(), x, product, step.tokens),
        rivals={"by adapters": by_adapters},
        num_bytes=(product.down.nbytes + product.up.nbytes) * used // NUM_ADAPTERS
        + x.nbytes
        + 2 * zeros.nbytes,
    )
