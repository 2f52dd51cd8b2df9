"""Tokens drawn with random numbers that are a function of (seed, position, vocabulary index).

No state. Philox4x32-10 (Salmon et al. 2011, «Parallel random numbers: as easy as 1, 2,
3») turns key = seed and counter = (vocabulary index // 4, position, 0, 0) into four 32-bit numbers,
one for each index of the quad.
"""

from typing import Final

import torch

from lengthwise_kernels.reference.penalties import Penalties, penalise

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS: Final = 10
_WORD: Final = 0xFFFFFFFF

_LIKELY_ENOUGH: Final = 1024
"""Tokens looked at for top-p before the whole vocabulary is sorted. On one core a row of 152,000
logits of a model that knows what it wants costs 2.3 ms this way and 15 ms sorted."""

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


def sample_tokens(
    logits: torch.Tensor,
    *,
    temperatures: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    penalties: Penalties,
) -> torch.Tensor:
    """A sample of softmax(kept scores) for each row of `logits`, floats [rows, vocab_size].

    Scores are penalised logits over the temperature, in float32. Kept are the `top_k` (0: all) best
    tokens, of them the fewest whose mass reaches `top_p`, of those the ones at least `min_p` times
    as likely as the best; ties at a threshold all stay. Of a row of temperature 0 only the best is
    kept. All other arguments are [rows], seeds 64 bits as int64. The result is int64 [rows]. Of a
    row with NaN or inf it is the token of one.
    """
    scores = penalise(logits.float(), penalties)
    tokens = scores.argmax(-1)
    rows = (temperatures > 0).nonzero().squeeze(1)
    if len(rows):
        columns = (seeds, positions, top_k, top_p, min_p)
        drawn = scores[rows] / temperatures[rows].unsqueeze(1)
        tokens[rows] = _draw(drawn, *(column[rows] for column in columns))
    return tokens


def _draw(
    scores: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    tokens = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    narrowed = (top_k > 0) | (top_p < 1.0) | (min_p > 0.0)
    whole = (~narrowed).nonzero().squeeze(1)
    if len(whole):
        noise = gumbel_noise_everywhere(seeds[whole], positions[whole], scores.shape[1])
        tokens[whole] = (scores[whole] + noise).argmax(-1)
    rows = narrowed.nonzero().squeeze(1)
    if len(rows):
        part = scores[rows]
        threshold = _threshold(part, top_k[rows], top_p[rows], min_p[rows])
        row_of, token_of = (part >= threshold.unsqueeze(1)).nonzero(as_tuple=True)
        noise = gumbel_noise(seeds[rows][row_of], positions[rows][row_of], token_of)
        noisy = torch.full_like(part, float("-inf"))
        noisy[row_of, token_of] = part[row_of, token_of] + noise
        tokens[rows] = noisy.argmax(-1)
    # No threshold can be had of them; argmax takes NaN for the largest.
    return torch.where(scores.amax(-1).isfinite(), tokens, scores.argmax(-1))


def _threshold(
    scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """The least score [rows] that top-k, then top-p of what is left, then min-p let through."""
    threshold = scores.amax(-1) + min_p.log()
    by_k = (top_k > 0) & (top_k < scores.shape[1])
    by_p = (top_p < 1.0) & ~by_k
    rows = by_k.nonzero().squeeze(1)
    if len(rows):
        least = _least_of_top_k(scores[rows], top_k[rows], top_p[rows])
        threshold[rows] = torch.maximum(threshold[rows], least)
    rows = by_p.nonzero().squeeze(1)
    if len(rows):
        least = _least_of_top_p(scores[rows], top_p[rows])
        threshold[rows] = torch.maximum(threshold[rows], least)
    return threshold


def _least_of_top_k(scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The least score [rows] among the top-k and, of their mass, the top-p."""
    best = scores.topk(int(top_k.max()), dim=-1).values
    outside = torch.arange(best.shape[1], device=best.device) >= top_k.unsqueeze(1)
    mass = best.masked_fill(outside, float("-inf")).softmax(-1)
    kept = _reaching(mass, top_p) & ~outside
    return best.gather(1, kept.sum(-1, keepdim=True) - 1).squeeze(1)


def _least_of_top_p(scores: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The least score [rows] among the fewest tokens whose mass reaches top-p."""
    # Unlike a logarithm of a sum, which several threads share where there is one row only.
    every = scores.softmax(-1)
    best, tokens = scores.topk(min(_LIKELY_ENOUGH, scores.shape[1]), dim=-1)
    mass = every.gather(1, tokens)
    if (mass.sum(-1) < top_p).any():
        best, tokens = scores.sort(-1, descending=True)
        mass = every.gather(1, tokens)
    kept = _reaching(mass, top_p)
    return best.gather(1, kept.sum(-1, keepdim=True) - 1).squeeze(1)


def _reaching(mass: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Which tokens are needed to reach top-p, given masses in falling order; always the first."""
    before = mass.cumsum(-1) - mass
    kept = (before < top_p.unsqueeze(1)) | (top_p >= 1.0).unsqueeze(1)
    kept[:, 0] = True
    return kept
