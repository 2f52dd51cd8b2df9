"""Matrix products in which a row is the same to the bit whatever rows are beside it.

On CPUs that is so of oneDNN's, plain or packed, for two rows and more, in every type. A single row
may be added up in another order: on x86 in bfloat16 over more than 1,024 numbers, in float32
always. There it is computed beside a copy of itself. PyTorch's float32 products are MKL's, which
takes other kernels for up to three rows, and for odd ends of the rows that a thread has.
"""

import torch

from lengthwise_kernels.packed import linear


def invariant_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, lone: bool = False
) -> torch.Tensor:
    """x weight^T + bias, [rows, in] to [rows, out]; `weight` [out, in] is plain or packed.

    `lone`: a single row is computed without a copy of itself, because `is_alike_alone(weight)`.
    """
    if len(x) == 1 and not lone:
        return _product(x.expand(2, -1), weight, bias)[:1]
    return _product(x, weight, bias)


def is_alike_alone(weight: torch.Tensor) -> bool:
    """Whether single rows are what they are beside a copy, found by computing one both ways.

    Less its own result, so that what rounding to 16 bits would hide shows.
    """
    row = torch.linspace(-1, 1, weight.shape[1]).cos().to(weight.dtype).unsqueeze(0)
    bias = -_product(row.expand(2, -1), weight, None)[0]
    beside = _product(row.expand(2, -1), weight, bias)
    return torch.equal(_product(row, weight, bias), beside[:1])


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.dtype == torch.float32:
        operation = torch.ops.mkldnn._linear_pointwise
        result: torch.Tensor = operation(x.contiguous(), weight, bias, "none", [], "")
        return result
    return linear(x.contiguous(), weight, bias)
