"""How GGUF stores numbers: a type has blocks of so many weights in so many bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BLOCK_INPUTS: Final = 32
"""Weights that share a scale, and perhaps an offset, in types with `kept_bits`."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """`name` as llama.cpp and the package gguf have it, which turns blocks into numbers.
    `kept_bits`: weights are integers of so many bits that can be computed with as they are."""

    name: str
    block_weights: int
    block_bytes: int
    kept_bits: int = 0


TENSOR_TYPES: Final[Mapping[int, TensorType]] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18, 4),
    3: TensorType("Q4_1", 32, 20, 4),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34, 8),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144, 4),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
}
"""By their numbers in files."""
