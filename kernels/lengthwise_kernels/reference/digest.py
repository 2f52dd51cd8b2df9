"""Digests of memory, by which two ends of a link know that they have the same bytes.

    digest[p] = sum_i mix(word_i + (i + 1) g) mod 2^64    over the words i of piece p

with words of 8 bytes, pieces of PIECE words, g the golden ratio times 2^64, and mix the finaliser
of SplitMix64 (Steele, Lea and Flood 2014). Since mix is a bijection, one changed word always shows;
several that were changed or have swapped places show but for one case in 2^64. Sums of integers do
not depend on their order. Against those who mean harm there is TLS.
"""

from typing import Final

import torch

PIECE: Final = 4096
WORD_BYTES: Final = 8
GOLDEN: Final = 0x9E3779B97F4A7C15
FACTORS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def num_digests(num_bytes: int) -> int:
    """Of so much memory."""
    return -(-num_bytes // (PIECE * WORD_BYTES))


def digest(words: torch.Tensor) -> torch.Tensor:
    """`words` are int64 [n]; the result is int64 [ceil(n / PIECE)]."""
    places = torch.arange(1, len(words) + 1, device=words.device)
    mixed = words + places * _signed(GOLDEN)
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    mixed = mixed ^ _shifted(mixed, 31)
    padding = -len(words) % PIECE
    return torch.nn.functional.pad(mixed, (0, padding)).view(-1, PIECE).sum(1)


def _shifted(words: torch.Tensor, shift: int) -> torch.Tensor:
    """To the right, with zeros from the left."""
    return (words >> shift) & ((1 << (64 - shift)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same bits."""
    return number - (1 << 64) if number >= 1 << 63 else number
