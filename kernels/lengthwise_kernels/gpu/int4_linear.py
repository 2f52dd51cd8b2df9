"""Matrix products with weights of 4 bits, which become numbers in registers (W4A16).

    out[i, j] = sum_k x[i, k] ((code[j, k] - 8) scale[g, j] + offset[g, j]),  g the group of k

x: [rows, in] and the result [rows, out] of one of float32, bfloat16 and float16, which weights are
rounded to; codes 0 to 15; sums in float32.

Bound by the bytes of the weights while decoding, by arithmetic for prompts. After MARLIN (Frantar
et al. 2024, arXiv:2408.11743): weights lie in the order in which they are read, are copied some
tiles ahead, and are unpacked right before they are multiplied. They are the first operand, which
Hopper's matrix units take from registers, and rows of x the second: few of them are a narrow tile.
Sums are added in the order of k; with one size of tile a row knows of no other.
"""

from dataclasses import dataclass, replace
from typing import Final

import torch
import triton
import triton.language as tl
from torch.nn import functional

from lengthwise_kernels.gpu.launch import check
from lengthwise_kernels.gpu.scaled_linear import INVARIANT_ROWS
from lengthwise_kernels.int4 import GROUP_STEP, tile_groups

_FEW_ROWS: Final = 16
"""Of a narrower tile, so that few rows wait for weights rather than for the matrix units."""

_WIDE_OUTPUTS: Final = 1 << 14
"""From so many on, tiles of 128 outputs occupy every multiprocessor of an H200."""


@triton.jit
def _numbers(codes, pairs, dtype: tl.constexpr):
    """[outputs, 32] of 4 bits as weights; of `pairs` [outputs] the low half of the bits is the
    scale, the high half the offset."""
    half: tl.constexpr = pairs.dtype.primitive_bitwidth // 2
    bits: tl.constexpr = tl.int16 if half == 16 else tl.int32
    scale = pairs.to(bits).to(dtype, bitcast=True).to(tl.float32)
    offset = (pairs >> half).to(bits).to(dtype, bitcast=True).to(tl.float32)
    # The last bits of 2^23 count whole numbers: conversions have half of the units that sums have.
    whole = (codes | 0x4B000000).to(tl.float32, bitcast=True) - 8388616.0
    return (whole * scale[:, None] + offset[:, None]).to(dtype)


@triton.jit(do_not_specialize=["rows"])
def _int4_kernel(
    x_ptr, packed_ptr, pairs_ptr, out_ptr, rows, outputs, inputs, groups,
    GROUP_STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # Neighbours share columns of the weights and take all rows, so that weights are read once.
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_output = row < rows, output < outputs
    step = tl.arange(0, STEP)
    x_row = x_ptr + row.to(tl.int64)[None, :] * inputs
    packed = packed_ptr + output.to(tl.int64)[:, None] * STEP + step[None, :]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for tile in range(tl.cdiv(inputs, 2 * STEP)):
        both = tl.load(packed, mask=is_output[:, None], other=0).to(tl.int32)
        packed += outputs * STEP
        group = 2 * tile // GROUP_STEPS
        low_pairs = tl.load(pairs_ptr + group * outputs + output, mask=is_output, other=0)
        if GROUP_STEPS % 2 == 0:
            high_pairs = low_pairs
        else:
            group = tl.minimum((2 * tile + 1) // GROUP_STEPS, groups - 1)
            high_pairs = tl.load(pairs_ptr + group * outputs + output, mask=is_output, other=0)
        number = tile * 2 * STEP + step[:, None]
        x = tl.load(x_row + number, mask=is_row[None, :] & (number < inputs), other=0.0)
        acc = tl.dot(_numbers(both & 15, low_pairs, x.dtype), x, acc, input_precision="ieee")
        number += STEP
        x = tl.load(x_row + number, mask=is_row[None, :] & (number < inputs), other=0.0)
        acc = tl.dot(_numbers(both >> 4, high_pairs, x.dtype), x, acc, input_precision="ieee")
    target = out_ptr + row.to(tl.int64)[None, :] * outputs + output[:, None]
    inside = is_row[None, :] & is_output[:, None]
    tl.store(target, acc.to(out_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Tiles:
    """Weights [out, in] as the kernel reads them. `packed` [tiles, out, 32] has in a byte the codes
    of the inputs j and 32 + j of a tile of 64; `pairs` [groups, out] has scale and offset, in the
    type that is computed in, as one integer. `invariant`: all numbers of rows are computed in
    tiles of one size."""

    packed: torch.Tensor
    pairs: torch.Tensor
    group_steps: int
    num_inputs: int
    dtype: torch.dtype
    invariant: bool = False

    @classmethod
    def of(
        cls,
        codes: torch.Tensor,
        scales: torch.Tensor,
        offsets: torch.Tensor,
        *,
        group_size: int,
        dtype: torch.dtype,
    ) -> "Int4Tiles":
        """As `Int4Weight.of`."""
        num_outputs, num_inputs = codes.shape
        group_steps = tile_groups(group_size, num_inputs)
        padded = functional.pad(codes, (0, -num_inputs % (2 * GROUP_STEP)))
        halves = padded.reshape(num_outputs, -1, 2, GROUP_STEP).transpose(0, 1)
        pairs = torch.stack([scales, offsets], -1).to(dtype)
        words = torch.int64 if dtype == torch.float32 else torch.int32
        return cls(
            packed=(halves[:, :, 0] | halves[:, :, 1] << 4).contiguous(),
            pairs=pairs.view(words).squeeze(-1).T.contiguous(),
            group_steps=group_steps,
            num_inputs=num_inputs,
            dtype=dtype,
        )

    @property
    def num_bytes(self) -> int:
        return self.packed.nbytes + self.pairs.nbytes

    def in_any_batch(self) -> "Int4Tiles":
        """The same, such that no row of a product depends on how many others there are."""
        return replace(self, invariant=True)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x weight^T, [rows, in] to [rows, out], in the type of x."""
        x = x.contiguous()
        check("int4_linear: x", x, [None, self.num_inputs], (self.dtype,))
        rows, outputs = len(x), self.packed.shape[1]
        out = x.new_empty((rows, outputs))
        if rows == 0:
            return out
        tile_rows = _FEW_ROWS if rows <= _FEW_ROWS and not self.invariant else INVARIANT_ROWS
        block = 128 if outputs >= _WIDE_OUTPUTS else 64
        _int4_kernel[(triton.cdiv(rows, tile_rows), triton.cdiv(outputs, block))](
            x, self.packed, self.pairs, out, rows, outputs, self.num_inputs, len(self.pairs),
            GROUP_STEPS=self.group_steps, BLOCK_M=tile_rows, BLOCK_N=block, STEP=GROUP_STEP,
            num_warps=4, num_stages=6,
        )  # fmt: skip
        return out
