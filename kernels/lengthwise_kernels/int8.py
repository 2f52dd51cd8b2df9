"""Weights of 8 bits with a scale for each output, on CPUs that add 8-bit products (VNNI).

Inputs become fixed-point numbers of 16 bits, each row by its largest: two numbers of 8 bits, whose
products with the weights oneDNN adds exactly, as integers, in one pass over the weights. So a row
is the same to the bit whatever rows are beside it. An input errs by 2^-16 of its row's largest
(in bfloat16 by 2^-9 of itself).
"""

import functools
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_kernels.host_memory import use_huge_pages

_STEPS: Final = 32512.0
"""Of a row's largest number: the high byte of it stays below 128, rounded to the nearest."""
_OFFSET: Final = 128
"""oneDNN's first operand is unsigned."""
_LEAST: Final = 2.0**-100
"""Rows below it become zeros: the factor has to be a normal number."""
_PLANNED_ROWS: Final = 64
_BLOCK: Final = 64


@functools.cache
def multiplies_int8() -> bool:
    """Whether this machine's CPU adds products of 8 bits without overflow. The others' oneDNN
    saturates pairs of them."""
    return bool(torch._C._has_mkldnn and torch.cpu._is_vnni_supported())


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Weight:
    """[out, in]: `packed` in the order in which oneDNN reads it, times `scales` [out], float32,
    which a row's steps are taken out of."""

    packed: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, scales: torch.Tensor) -> "Int8Weight":
        """`values` [out, in], int8."""
        packed = torch.ops.onednn.qlinear_prepack(values, [_PLANNED_ROWS, values.shape[1]])
        use_huge_pages(torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed))
        return cls(packed=packed, scales=scales.float() / _STEPS)

    @property
    def num_bytes(self) -> int:
        return int(torch.ops.mkldnn._nbytes(self.packed)) + self.scales.nbytes

    def in_any_batch(self) -> "Int8Weight":
        return self

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x weight^T, [rows, in] to [rows, out], float32."""
        norm = torch.linalg.vector_norm
        peaks = norm(x, torch.inf, 1, True, dtype=torch.float32).clamp_(min=_LEAST)
        # Both bytes 128 higher; 0.5 more, since the conversion cuts off.
        fixed = (x * (_STEPS / peaks)).add_(_OFFSET * 257 + 0.5).to(torch.int32)
        pairs = fixed.view(torch.uint8).view(*x.shape, 4)[..., :2]
        low_and_high = pairs.permute(2, 0, 1).reshape(2 * len(x), x.shape[1])
        low, high = self._sums(low_and_high).chunk(2)
        return low.add_(high, alpha=256).mul_(peaks)

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        sums: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            values, 1.0, _OFFSET, self.packed, self.scales, _zeros(len(self.scales)), None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums


def int8_bytes(num_inputs: int, num_outputs: int) -> int:
    """Of an `Int8Weight`, at most: oneDNN fills blocks up, and keeps a sum for each output."""
    rows, columns = (-(-size // _BLOCK) * _BLOCK for size in (num_outputs, num_inputs))
    return rows * (columns + 4) + 4 * num_outputs


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)
