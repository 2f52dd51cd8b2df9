"""Digests see every change of what they are of."""

import pytest
import torch

from lengthwise_kernels.reference import digest as truth

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import digest as kernel

MASK = (1 << 64) - 1


def by_hand(words: list[int]) -> list[int]:
    """As int64, of words of 64 bits."""
    sums = [0] * truth.num_digests(8 * len(words))
    for place, word in enumerate(words):
        mixed = (word + (place + 1) * 0x9E3779B97F4A7C15) & MASK
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & MASK
        sums[place // truth.PIECE] += mixed ^ mixed >> 31
    return [(each & MASK) - (1 << 64 if each & MASK >= 1 << 63 else 0) for each in sums]


def random_words(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(-(1 << 63), (1 << 63) - 1, (count,), generator=generator)


@pytest.mark.parametrize("count", [0, 1, truth.PIECE, 2 * truth.PIECE + 37])
def test_digests_are_what_they_are_by_hand(device: str, count: int) -> None:
    words = random_words(count)
    expected = by_hand([word & MASK for word in words.tolist()])
    assert truth.digest(words).tolist() == expected
    assert kernel.digest(words.to(device)).tolist() == expected


def test_what_has_changed_or_moved_shows() -> None:
    words = random_words(truth.PIECE)
    before = truth.digest(words)
    for place, bit in ((0, 0), (17, 63), (truth.PIECE - 1, 31)):
        changed = words.clone()
        changed[place] ^= -(1 << 63) if bit == 63 else 1 << bit
        assert truth.digest(changed) != before
    assert truth.digest(words.flip(0)) != before
    assert truth.digest(words.roll(1)) != before
    assert truth.digest(torch.zeros(truth.PIECE, dtype=torch.int64)) != truth.digest(
        torch.zeros(truth.PIECE - 1, dtype=torch.int64)
    )
