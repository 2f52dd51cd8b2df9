"""Philox against published vectors, and the noise made of it."""

import math

import pytest
import torch

from lengthwise_kernels.reference.sampling import (
    gumbel_noise,
    gumbel_noise_everywhere,
    philox4x32,
)

# Random123 1.14, tests/kat_vectors: philox4x32, 10 rounds.
KNOWN_ANSWERS = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: tuple[int, int, int, int]
) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    words = philox4x32((c0, c1, c2, c3), (torch.tensor([key[0]]), torch.tensor([key[1]])))
    assert tuple(word.item() for word in words) == answer


def test_noise_of_chosen_indices_is_that_of_the_whole_vocabulary() -> None:
    seeds, positions = torch.tensor([5, -(2**63), 2**40 + 3]), torch.tensor([0, 17, 40_000])
    everywhere = gumbel_noise_everywhere(seeds, positions, 1003)
    assert everywhere.shape == (3, 1003)
    rows, indices = torch.tensor([2, 0, 1, 1]), torch.tensor([1002, 0, 513, 514])
    chosen = gumbel_noise(seeds[rows], positions[rows], indices)
    assert torch.equal(chosen, everywhere[rows, indices])


@pytest.mark.parametrize("other", [(1, 0), (0, 1), (2**32, 0)], ids=["seed", "position", "high"])
def test_seed_and_position_both_change_the_noise(other: tuple[int, int]) -> None:
    first = gumbel_noise_everywhere(torch.tensor([0]), torch.tensor([0]), 64)
    second = gumbel_noise_everywhere(torch.tensor([other[0]]), torch.tensor([other[1]]), 64)
    assert not torch.isclose(first, second).any()


def test_noise_is_gumbel_distributed_and_finite() -> None:
    noise = gumbel_noise_everywhere(torch.arange(50), torch.arange(50), 4000).flatten().double()
    assert noise.isfinite().all()
    # Kolmogorov-Smirnov: the largest gap between empirical and Gumbel distribution, 0.1 % level.
    ranks = torch.arange(1, len(noise) + 1) / len(noise)
    gap = (torch.exp(-torch.exp(-noise.sort().values)) - ranks).abs().max().item()
    assert gap < 1.95 / math.sqrt(len(noise))
