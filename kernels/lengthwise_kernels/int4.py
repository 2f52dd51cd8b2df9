"""Weights of 4 bits with a scale and an offset for each group of inputs.

On CPUs PyTorch's kernel turns weights into float32 in registers; numbers of inputs and outputs that
it does not take are padded. GPUs have `gpu.int4_linear`. Weights of 8 bits are two such matrices,
of their high and their low halves.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from lengthwise_kernels.host_memory import use_huge_pages

GROUP_SIZES: Final = (256, 128, 64, 32)
"""That the kernel has. A larger group is several of them, with the same scale."""
GROUP_STEP: Final = 32
"""Of GPUs' kernel (`gpu.int4_linear`): groups are multiples of it."""
_OUTPUTS: Final = 16
"""It computes multiples of these."""
_PACKED_ROWS: Final = 1024
"""Packed at once, from 32-bit numbers."""
_CENTRE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Weight:
    """[out, in]: (code - 8) * scale + offset; `scales` [groups, out, 2] has both, in the type that
    is computed in."""

    packed: torch.Tensor
    scales: torch.Tensor
    group_size: int
    num_inputs: int
    num_outputs: int

    @classmethod
    def of(
        cls,
        codes: torch.Tensor,
        scales: torch.Tensor,
        offsets: torch.Tensor,
        *,
        group_size: int,
        dtype: torch.dtype,
    ) -> "Int4Weight":
        """`codes` [out, in] of 0 to 15; `scales` and `offsets` [out, groups], of `group_size`
        inputs one after the other, the last of them perhaps of fewer. Errors: ValueError for sizes
        that the kernel does not have."""
        num_outputs, num_inputs = codes.shape
        group = kernel_group(group_size, num_inputs)
        padded, missing = -num_inputs % group, -num_outputs % _OUTPUTS
        pairs = torch.stack([scales, offsets], -1).transpose(0, 1)
        places = torch.arange(0, num_inputs, group) // group_size
        pieces = [
            torch.ops.aten._convert_weight_to_int4pack_for_cpu(piece.to(torch.int32), 1)
            for piece in torch.split(functional.pad(codes, (0, padded, 0, missing)), _PACKED_ROWS)
        ]
        packed = torch.cat(pieces)
        use_huge_pages(packed.data_ptr(), packed.nbytes)
        return cls(
            packed=packed,
            scales=functional.pad(pairs[places].to(dtype), (0, 0, 0, missing)).contiguous(),
            group_size=group,
            num_inputs=num_inputs,
            num_outputs=num_outputs,
        )

    @property
    def num_bytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes

    def in_any_batch(self) -> "Int4Weight":
        return self

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x weight^T, [rows, in] to [rows, out], in the type of the scales."""
        x = functional.pad(x, (0, -self.num_inputs % self.group_size)).contiguous()
        x = x.to(self.scales.dtype)
        result: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.packed, self.group_size, self.scales
        )
        return result[:, : self.num_outputs]


def kernel_group(group_size: int, num_inputs: int) -> int:
    """The largest group of the kernel's that groups of `group_size` consist of; a group of all
    inputs may have any number. Errors: ValueError."""
    for size in GROUP_SIZES:
        if not group_size % size:
            return size
    _check_group(group_size, num_inputs)
    return GROUP_SIZES[-1]


def tile_groups(group_size: int, num_inputs: int) -> int:
    """How many of GPUs' steps a group has. Errors: ValueError."""
    if group_size % GROUP_STEP:
        _check_group(group_size, num_inputs)
    return -(-group_size // GROUP_STEP)


def _check_group(group_size: int, num_inputs: int) -> None:
    if group_size < num_inputs:
        raise ValueError(f"got groups of {group_size} inputs, expected a multiple of {GROUP_STEP}")


def int4_bytes(num_inputs: int, num_outputs: int, group_size: int, item: int) -> int:
    """Of an `Int4Weight` that is computed with in numbers of `item` bytes."""
    num_groups = -(-num_inputs // kernel_group(group_size, num_inputs))
    rows = -(-num_outputs // _OUTPUTS) * _OUTPUTS
    return rows * num_groups * (kernel_group(group_size, num_inputs) // 2 + 2 * item)


def int4_tiles_bytes(num_inputs: int, num_outputs: int, group_size: int, item: int) -> int:
    """The same on a GPU."""
    tiles, groups = -(-num_inputs // (2 * GROUP_STEP)), -(-num_inputs // group_size)
    return num_outputs * (tiles * GROUP_STEP + groups * 2 * item)
