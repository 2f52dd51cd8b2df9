"""The elementwise operations of a transformer layer.

Each rounds where Hugging Face's models round, so that float16 and bfloat16 agree too.
"""

import torch
from torch.nn import functional


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, the mean in float32.

    `x` is [..., size], `weight` [size]. (Zhang and Sennrich 2019, arXiv:1910.07467.)
    """
    size = (x.shape[-1],)
    if x.dtype == torch.float32:
        return functional.rms_norm(x, size, weight, eps)
    # Rounded before it is weighted.
    return functional.rms_norm(x, size, None, eps).mul_(weight)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rms_norm(x + residual)` and `x + residual`."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up where `gate_up` [..., 2 size] holds gate first; the result is [..., size]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `x` [tokens, heads, dim]; `cos` and `sin` are [tokens, dim / 2].

    Pairs (i, i + dim / 2), as Hugging Face stores them: (a, b) becomes
    (a cos - b sin, b cos + a sin). (Su et al. 2021, arXiv:2104.09864.)
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
