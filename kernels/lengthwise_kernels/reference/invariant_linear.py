"""Matrix products in which a row is the same to the bit whatever rows are beside it.

On CPUs that is so of oneDNN's, plain or packed, for two rows and more, in every type; a single row
is added up in another order (in bfloat16 over more than some 1,000 numbers, in float32 always),
and is computed twice here. PyTorch's float32 products are MKL's, which takes other kernels for
up to three rows, and for odd ends of the rows that a thread has.
"""

import torch

from lengthwise_kernels.packed import linear


def invariant_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x weight^T + bias, [rows, in] to [rows, out]; `weight` [out, in] is plain or packed."""
    rows = len(x)
    if rows == 1:
        x = x.expand(2, -1)
    if x.dtype == torch.float32:
        operation = torch.ops.mkldnn._linear_pointwise
        result: torch.Tensor = operation(x.contiguous(), weight, bias, "none", [], "")
    else:
        result = linear(x.contiguous(), weight, bias)
    return result[:rows]
