"""Keys and values in 8 bits.

A head's key or value x [head_dim] of one token is stored as head_dim + 2 bytes: the integers
round(x / s), and s = max |x| / 127 as bfloat16, whose range is that of float32. A scale of a whole
block would be smaller by a hundredth of the block, but known only once the block is full: what was
written before would be rounded again, and a token's result would depend on how its prompt was cut.
"""

from typing import Final

import torch

SCALE_BYTES: Final = 2
_LARGEST: Final = 127.0


def quantise_heads(x: torch.Tensor) -> torch.Tensor:
    """[..., head_dim], an even number, as int8 [..., head_dim + 2]."""
    exact = x.float()
    scale = (exact.abs().amax(-1, keepdim=True) / _LARGEST).bfloat16()
    # Of zeros the scale is zero. Rounding it down leaves the largest number half a step too far.
    steps = exact / scale.float().masked_fill(scale == 0, 1.0)
    codes = steps.round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return torch.cat((codes, scale.view(torch.int8)), dim=-1)


def dequantise_heads(stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `quantise_heads` made of [..., head_dim], in `dtype`; a view, whose rows have gaps."""
    scale = stored[..., -SCALE_BYTES:].view(torch.bfloat16)
    # Converted with its scale a row is contiguous, which takes half the time.
    return stored.to(dtype)[..., :-SCALE_BYTES].mul_(scale.to(dtype))
