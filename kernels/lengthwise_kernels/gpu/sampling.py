"""One token for each row of scores, drawn without the host.

    argmax over the kept tokens of score + noise, a sample of softmax(kept scores)

scores: float32 [rows, vocab_size] at their temperature; seeds, positions, top_k: int64 [rows];
top_p, min_p: float32 [rows]; the result: int64 [rows]. Kept are top-k, of their mass top-p, and of
that min-p; ties at a threshold all stay. The noise is Gumbel's, made of Philox4x32-10 with key =
seed and counter = (token // 4, position, 0, 0): the words are those of `reference.sampling` bit for
bit, the noise to a few units in the last place. (Salmon et al. 2011; Maddison et al. 2014,
arXiv:1411.0030.)

A program takes a row, which stays in the L2 cache. A threshold is found by bisection over the bits
of a float32, read as an integer of the same order: 31 passes at most, each of which sums what lies
above the middle. Rows pay for what they ask for: without top-k and top-p there is no search, and
the noise is computed for blocks that hold a kept token. Of a row with
NaN or inf the result is the token of one.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check, require

_BLOCK: Final = 8192
"""16 scores for each of 512 threads: four loads of 16 bytes in flight."""


@triton.jit
def philox_words(seed, position, quad):
    """The four 32-bit words of each quad of tokens [quads]."""
    zero = quad.to(tl.uint32) * 0
    low, high = (seed & 0xFFFFFFFF).to(tl.uint32), ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox_impl(
        quad.to(tl.uint32), zero + position.to(tl.uint32), zero, zero, zero + low, zero + high, 10
    )


@triton.jit
def gumbel(word):
    """-log(-log1p(-u)) with u in (0, 1) from a 32-bit word."""
    u = tl.minimum((word.to(tl.float32) + 0.5) * (1.0 / 4294967296.0), 1.0 - 1.0 / 16777216.0)
    # log1p(-u) = -2 atanh(z): Triton has no log1p that its interpreter knows, and log(1 - u) is
    # wrong where u is small, the noise large, and the choice made.
    z = u / (2.0 - u)
    s = z * z
    series = 1.0 + s * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s / 13)))))
    return -tl.log(tl.where(u < 0.5, 2.0 * z * series, -tl.log(1.0 - u)))


@triton.jit
def _ordered(score):
    """Integers that compare as the scores do; its own inverse once the bits are integers."""
    # The sum turns -0 into 0, which compares equal.
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _highest(scores_ptr, vocab_size, BLOCK: tl.constexpr):
    """The largest score."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(0, vocab_size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = tl.load(scores_ptr + token, mask=token < vocab_size, other=float("-inf"))
        best = tl.maximum(best, score)
    return tl.max(best, 0)


@triton.jit
def _above(scores_ptr, vocab_size, key, peak, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """How many scores, or what sum of e^(score - peak), lies above `key`; float32."""
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocab_size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = tl.load(scores_ptr + token, mask=token < vocab_size, other=float("-inf"))
        weight = tl.exp(score - peak) if MASS else 1.0
        sums += tl.where(_ordered(score) > key, weight, 0.0)
    return tl.sum(sums)


@triton.jit
def _least_kept(
    scores_ptr, vocab_size, low, high, most, peak, MASS: tl.constexpr, BLOCK: tl.constexpr
):
    """The least key in [low, high] above which lies less than `most`, which holds for `high`."""
    while low < high:
        middle = low + (high - low) // 2
        above = _above(scores_ptr, vocab_size, middle.to(tl.int32), peak, MASS, BLOCK)
        if above < most:
            high = middle
        else:
            low = middle + 1
    return low


@triton.jit
def _sample_kernel(
    scores_ptr, seeds_ptr, positions_ptr, top_k_ptr, top_p_ptr, min_p_ptr, tokens_ptr, vocab_size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * vocab_size
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    min_p = tl.load(min_p_ptr + row)
    by_k = (top_k > 0) & (top_k < vocab_size)
    peak = tl.zeros([], tl.float32)
    if by_k | (top_p < 1.0) | (min_p > 0.0):
        peak = _highest(scores_ptr, vocab_size, BLOCK)
    # The key of -inf: everything is kept.
    least = tl.full([], -2139095041, tl.int64)
    highest = _ordered(peak).to(tl.int64)
    if by_k:
        most = top_k.to(tl.float32)
        least = _least_kept(scores_ptr, vocab_size, least, highest, most, peak, False, BLOCK)
    if top_p < 1.0:
        key = least.to(tl.int32)
        mass = _above(scores_ptr, vocab_size, key, peak, True, BLOCK)
        if by_k:
            # Of scores equal to the k-th, as many count as make k.
            ties = top_k - _above(scores_ptr, vocab_size, key, peak, False, BLOCK).to(tl.int64)
            score = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
            mass += ties.to(tl.float32) * tl.exp(score - peak)
        # The best token stays, however small top_p is.
        most = tl.maximum(top_p * mass, 1e-30)
        least = _least_kept(scores_ptr, vocab_size, least, highest, most, peak, True, BLOCK)
    if min_p > 0.0:
        least = tl.maximum(least, _ordered(peak + tl.log(min_p)).to(tl.int64))
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    chosen = tl.zeros([BLOCK], tl.int32)
    seed, position = tl.load(seeds_ptr + row), tl.load(positions_ptr + row)
    for first in range(0, vocab_size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = tl.load(scores_ptr + token, mask=token < vocab_size, other=float("-inf"))
        kept = (_ordered(score) >= least.to(tl.int32)) & (token < vocab_size) | (score != score)
        if tl.max(kept.to(tl.int32), 0) > 0:
            quad = first // 4 + tl.arange(0, BLOCK // 4)
            w0, w1, w2, w3 = philox_words(seed, position, quad)
            word = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
            noisy = tl.where(kept, score + gumbel(word), float("-inf"))
            noisy = tl.where(score != score, float("inf"), noisy)
            chosen = tl.where(noisy > best, token, chosen)
            best = tl.maximum(best, noisy)
    winners = tl.where(best == tl.max(best, 0), chosen, vocab_size)
    tl.store(tokens_ptr + row, tl.min(winners, 0).to(tl.int64))


def sample_tokens(
    scores: torch.Tensor,
    *,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    """A token for each row of `scores`; the same as `reference.sampling.sample_tokens`."""
    op = "sample_tokens"
    check(f"{op}: scores", scores, [None, None], (torch.float32,))
    rows, vocab_size = scores.shape
    for name, values in (("seeds", seeds), ("positions", positions), ("top_k", top_k)):
        check(f"{op}: {name}", values, [rows], (torch.int64,))
    for name, values in (("top_p", top_p), ("min_p", min_p)):
        check(f"{op}: {name}", values, [rows], (torch.float32,))
    require(0 < vocab_size < 2**24, f"{op}: vocab_size must be 1..{2**24 - 1}, got {vocab_size}")
    tokens = scores.new_empty(rows, dtype=torch.int64)
    if rows:
        _sample_kernel[(rows,)](
            scores, seeds, positions, top_k, top_p, min_p, tokens, vocab_size,
            BLOCK=min(_BLOCK, max(16, triton.next_power_of_2(vocab_size))), num_warps=16,
        )  # fmt: skip
    return tokens
