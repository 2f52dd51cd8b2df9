"""Random numbers that are a function of (seed, position, vocabulary index).

The rule: no state. Philox4x32-10 (Salmon et al. 2011, «Parallel random numbers: as easy as 1, 2,
3») turns key = seed and counter = (vocabulary index // 4, position, 0, 0) into four 32-bit numbers,
one for each index of the quad.
"""

from typing import Final

import torch

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS: Final = 10
_WORD: Final = 0xFFFFFFFF

Words4 = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox4x32(counter: Words4, key: tuple[torch.Tensor, torch.Tensor]) -> Words4:
    """Ten rounds of Philox4x32; words are int64 tensors in [0, 2^32) that broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        # A signed product wraps, but its 64 bits are those of the unsigned one.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (product0 >> 32) & _WORD, (product1 >> 32) & _WORD
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _WORD, high0 ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def gumbel_noise(
    seeds: torch.Tensor, positions: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """Standard Gumbel noise, float32 [candidates], for one vocabulary index of one row each.

    `seeds` (64 bits, as int64), `positions` and `indices` are [candidates].
    argmax(logits + noise) is a sample of softmax(logits). (Maddison et al. 2014, arXiv:1411.0030.)
    """
    words = _words(seeds, positions, indices // 4)
    return _gumbel(words.gather(-1, (indices % 4).unsqueeze(-1)).squeeze(-1))


def gumbel_noise_everywhere(
    seeds: torch.Tensor, positions: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """`gumbel_noise` of the whole vocabulary for a quarter of the work: [rows, vocab_size].

    `seeds` and `positions` are [rows].
    """
    quads = torch.arange(-(-vocab_size // 4), device=seeds.device)
    words = _words(seeds.unsqueeze(1), positions.unsqueeze(1), quads)
    return _gumbel(words.flatten(1)[:, :vocab_size])


def _words(seeds: torch.Tensor, positions: torch.Tensor, quads: torch.Tensor) -> torch.Tensor:
    """The four words of each quad, in a last dimension of their own."""
    key = seeds & _WORD, (seeds >> 32) & _WORD
    zero = torch.zeros_like(quads)
    return torch.stack(philox4x32((quads, positions, zero, zero), key), dim=-1)


def _gumbel(word: torch.Tensor) -> torch.Tensor:
    # u in (0, 1): float32 is fine near 0, where the noise is large and decides, and coarse near 1,
    # where the clamp keeps the logarithm finite.
    uniform = ((word.float() + 0.5) * 2.0**-32).clamp_(max=1.0 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))
