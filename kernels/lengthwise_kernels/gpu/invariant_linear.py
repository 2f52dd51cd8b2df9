"""Matrix products in which a row is the same to the bit whatever rows are beside it.

    out[i, j] = sum_k x[i, k] weight[j, k] + bias[j]

x: [rows, in]; weight: [out, in]; bias [out] and the result [rows, out]; all of one of float32,
bfloat16 and float16, sums and bias in float32.

cuBLAS chooses its tiles, and whether it cuts sums, by the number of rows. Here all rows of all
steps go through one kernel with one size of tile, which adds products in the order of k; rows of
padding are zeros, and a result depends on no other row. (He and Thinking Machines Lab 2025,
«Defeating nondeterminism in LLM inference».)
"""

import torch

from lengthwise_kernels.gpu.launch import check
from lengthwise_kernels.gpu.scaled_linear import INVARIANT_ROWS, multiply


def invariant_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, lone: bool = True
) -> torch.Tensor:
    """x weight^T + bias. Single rows are computed as others are, whatever `lone` says."""
    op = "invariant_linear"
    check(f"{op}: x", x, [None, None])
    check(f"{op}: weight", weight, [None, x.shape[1]], (x.dtype,))
    if bias is not None:
        check(f"{op}: bias", bias, [len(weight)], (x.dtype,))
    out = x.new_empty((len(x), len(weight)))
    multiply(x, None, weight, None, bias, out, INVARIANT_ROWS)
    return out


def is_alike_alone(weight: torch.Tensor) -> bool:
    """Single rows need no copy of themselves beside them."""
    return True
