"""Blocks of GGUF that are integers of 8 or 4 bits with a scale for 32 of them, as `Codes`.

After llama.cpp's ggml-common.h. A block of `Q4_K` is eight of 32 weights, whose scales and offsets
have 6 bits each, times two of its own.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch

from lengthwise_checkpoint.gguf.tensor_types import BLOCK_INPUTS, TensorType
from lengthwise_engine.models.integers.codes import Codes

_Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Values [..., 32], and scales and offsets, one for each 32."""


def codes_of_blocks(kind: TensorType, raw: torch.Tensor) -> Codes:
    """Of rows as they are stored, uint8 [rows, bytes]; `kind` has `kept_bits`."""
    blocks = raw.reshape(len(raw), -1, kind.block_bytes)
    values, scales, offsets = _READ[kind.name](blocks)
    return Codes(
        values=values.reshape(len(raw), -1),
        scales=scales.reshape(len(raw), -1),
        offsets=offsets.reshape(len(raw), -1),
        bits=kind.kept_bits,
        group_size=BLOCK_INPUTS,
    )


def _q8_0(blocks: torch.Tensor) -> _Parts:
    scales = _half(blocks[..., :2])
    return blocks[..., 2:] ^ 128, scales, -128 * scales


def _q4_0(blocks: torch.Tensor) -> _Parts:
    scales = _half(blocks[..., :2])
    return _nibbles(blocks[..., 2:]), scales, -8 * scales


def _q4_1(blocks: torch.Tensor) -> _Parts:
    return _nibbles(blocks[..., 4:]), _half(blocks[..., :2]), _half(blocks[..., 2:4])


def _q4_k(blocks: torch.Tensor) -> _Parts:
    first, second, both = torch.split(blocks[..., 4:16], 4, -1)
    # Of the last four scales and offsets the two highest bits lie in those of the first four.
    scales = torch.cat((first & 63, both & 15 | first >> 6 << 4), -1)
    offsets = torch.cat((second & 63, both >> 4 | second >> 6 << 4), -1)
    values = blocks[..., 16:].reshape(*blocks.shape[:2], 4, BLOCK_INPUTS)
    return (
        _nibbles(values),
        _half(blocks[..., :2]).unsqueeze(-1) * scales,
        -_half(blocks[..., 2:4]).unsqueeze(-1) * offsets,
    )


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The low halves of all bytes, then the high ones."""
    return torch.cat((packed & 15, packed >> 4), -1)


def _half(number: torch.Tensor) -> torch.Tensor:
    return number.contiguous().view(torch.float16).squeeze(-1).float()


_READ: Final[Mapping[str, Callable[[torch.Tensor], _Parts]]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
}
