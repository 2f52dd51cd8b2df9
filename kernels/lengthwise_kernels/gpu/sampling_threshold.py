"""The least score that top-k, top-p and min-p let through, found in few passes over a row.

Scores are compared as integers of the same order, their keys. The first pass keeps the best score
of each of BLOCK columns of the row. The k-th best of these is a lower bound of the k-th best of
all, and hardly below it; likewise, where the columns' best have the mass that top-p asks for, for
top-p. So a second pass gathers the few scores from there on, and bisection in registers finds the
threshold. Where too many are left for registers (a flat row; the best tokens in few columns),
passes with eight pivots narrow the bounds before.

That is 2 passes for either filter and 3 for both, 4 to 6 for flat rows; 31 by bisection over the
row. A radix of 256 takes 4 for each filter, and a histogram of masses in shared memory, which
Triton does not have.
"""

import triton
import triton.language as tl

_PIVOT_BLOCK = tl.constexpr(1024)
"""Scores that eight pivots take at once: as many sums in registers."""

_HOPELESS = tl.constexpr(26.0)
"""No token so far below the best is drawn: noise lies within -2.9 and 22.9."""


@triton.jit
def read_scores(row, token):
    """Scores of these tokens of a row; -inf beyond the vocabulary."""
    logits_ptr, vocab_size, temperature, slot, counts_ptr, repetition, presence, frequency = row
    inside = token < vocab_size
    score = tl.load(logits_ptr + token, mask=inside, other=float("-inf")).to(tl.float32)
    if slot > 0:
        # Twice how often it was generated, and one if it is in the prompt.
        count = tl.load(counts_ptr + token, mask=inside, other=0)
        repeated = tl.where(score < 0, score * repetition, score / repetition)
        score = tl.where(count > 0, repeated, score)
        generated = (count >> 1).to(tl.float32)
        score -= generated * frequency + tl.where(count > 1, presence, 0.0)
    return score / temperature


@triton.jit
def key_of(score):
    """Integers that compare as the scores do."""
    # The sum turns -0 into 0, which compares equal.
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _score_of(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _between(low, high):
    """The middle of two keys, whose difference may be no int32."""
    return (low >> 1) + (high >> 1) + (low & high & 1)


@triton.jit
def threshold(row, top_k, top_p, min_p, held_ptr, BLOCK: tl.constexpr):
    """The key of the least kept score of `row`, of which one token at least is kept.

    `held_ptr` [BLOCK], float32, is for scores on their way to other threads.
    """
    vocab_size = row[1]
    best, mass, worst = _columns(row, vocab_size, BLOCK)
    peak = tl.max(best, 0)
    least = tl.full([], -2139095041, tl.int32)
    # Of broken rows everything is kept.
    if (peak < float("inf")) & (peak > float("-inf")):
        keys, high = key_of(best), key_of(peak)
        bottom = key_of(tl.maximum(peak - _HOPELESS, worst))
        by_k = (top_k > 0) & (top_k < vocab_size)
        is_short = vocab_size <= BLOCK
        total = tl.sum(mass * tl.exp(best - peak))
        most = top_k.to(tl.float32)
        if by_k:
            bound = _least_in(keys, 1.0, bottom - 1, high, most)
        else:
            # The best token stays, however small top_p is.
            most = tl.maximum(top_p * total, 1e-30)
            bound = _least_in(keys, tl.exp(best - peak), bottom - 1, high, most)
        is_near = (bound > bottom) | is_short
        if by_k:
            bound, count, above = _least_kept(
                row, bound, high, most, peak, is_near, False, held_ptr, BLOCK
            )
            # Of scores equal to the k-th, as many count as make k.
            total = above + (most - count) * tl.exp(_score_of(bound) - peak)
            most = tl.maximum(top_p * total, 1e-30)
            is_near = top_k <= BLOCK
            least = bound
        if top_p < 1.0:
            least, count, above = _least_kept(
                row, bound, high, most, peak, is_near, True, held_ptr, BLOCK
            )
        if min_p > 0.0:
            least = tl.maximum(least, key_of(peak + tl.log(min_p)))
    return least


@triton.jit
def _columns(row, vocab_size, BLOCK: tl.constexpr):
    """The best score of each column, the sum of e^(score - best) over the column, and the least
    score of all but those of tokens that are not allowed."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    worst = tl.full([BLOCK], float("inf"), tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocab_size, BLOCK):
        score = read_scores(row, first + tl.arange(0, BLOCK))
        higher = tl.maximum(best, score)
        shift = tl.where(higher > float("-inf"), higher, 0.0)
        mass = mass * tl.exp(best - shift) + tl.exp(score - shift)
        best = higher
        worst = tl.minimum(worst, tl.where(score > float("-inf"), score, float("inf")))
    return best, mass, tl.min(worst, 0)


@triton.jit
def _least_in(keys, weights, low, high, most):
    """The least key in (low, high] above which lies less than `most`, as above `high`."""
    while low + 1 < high:
        middle = _between(low, high)
        if tl.sum(tl.where(keys > middle, weights, 0.0)) < most:
            high = middle
        else:
            low = middle
    return high


@triton.jit
def _least_kept(
    row, bound, high, most, peak, is_near, BY_MASS: tl.constexpr, held_ptr, BLOCK: tl.constexpr
):  # fmt: skip
    """The least key in [bound, high] above which lies less than `most`, by number or by mass, and
    the number and the mass above it; `is_near` says that few may lie above `bound`."""
    low = bound - 1
    count, mass = 0.0, 0.0
    inside = tl.zeros([], tl.float32) + row[1]
    held = 0
    if is_near:
        held = _gather(row, low, high, held_ptr, BLOCK)
        inside = held.to(tl.float32)
    while (inside > BLOCK) & (low + 1 < high):
        all_above = count + inside
        low, high, count, mass, all_above = _narrow(
            row, low, high, count, mass, all_above, most, peak, BY_MASS
        )
        inside = all_above - count
        if inside <= BLOCK:
            held = _gather(row, low, high, held_ptr, BLOCK)
    if low + 1 < high:
        place = tl.arange(0, BLOCK)
        score = tl.load(held_ptr + place, mask=place < held, other=float("-inf"))
        keys, weights = key_of(score), tl.exp(score - peak)
        if BY_MASS:
            high = _least_in(keys, weights, low, high, most - mass)
        else:
            high = _least_in(keys, 1.0, low, high, most - count)
        count += tl.sum(tl.where(keys > high, 1.0, 0.0))
        mass += tl.sum(tl.where(keys > high, weights, 0.0))
    return high, count, mass


@triton.jit
def _gather(row, low, high, held_ptr, BLOCK: tl.constexpr):
    """Write the scores with keys in (low, high], BLOCK at most; returns how many there are."""
    vocab_size = row[1]
    # All threads have read what was gathered before.
    tl.debug_barrier()
    count = tl.zeros([], tl.int32)
    for first in range(0, vocab_size, BLOCK):
        score = read_scores(row, first + tl.arange(0, BLOCK))
        key = key_of(score)
        inside = ((key > low) & (key <= high)).to(tl.int32)
        more = tl.sum(inside)
        if more > 0:
            place = count + tl.cumsum(inside, 0) - 1
            tl.store(held_ptr + place, score, mask=(inside > 0) & (place < BLOCK))
        count += more
    tl.debug_barrier()
    return count


@triton.jit
def _narrow(row, low, high, count, mass, all_above, most, peak, BY_MASS: tl.constexpr):
    """Closer bounds (low, high] of the threshold; `count` and `mass` are what lies above `high`,
    `all_above` the number above `low`."""
    vocab_size = row[1]
    part = tl.arange(0, 8)
    low_score, high_score = _score_of(low), _score_of(high)
    # Six pivots cut the scores into equal parts. One cuts the keys, so that each pass at least
    # halves them, and one tells whether the threshold is the lowest key: most scores may be equal.
    pivot = key_of(low_score + (high_score - low_score) * ((part - 1) / 7.0))
    pivot = tl.where(part == 1, _between(low, high), pivot)
    pivot = tl.maximum(low + 1, tl.minimum(pivot, high - 1))
    counts = tl.zeros([8, _PIVOT_BLOCK], tl.float32)
    masses = tl.zeros([8, _PIVOT_BLOCK], tl.float32)
    for first in range(0, vocab_size, _PIVOT_BLOCK):
        score = read_scores(row, first + tl.arange(0, _PIVOT_BLOCK))
        above = key_of(score)[None, :] > pivot[:, None]
        counts += tl.where(above, 1.0, 0.0)
        masses += tl.where(above, tl.exp(score - peak)[None, :], 0.0)
    count_of, mass_of = tl.sum(counts, 1), tl.sum(masses, 1)
    sums = mass_of if BY_MASS else count_of
    too_much = sums >= most
    low = tl.max(tl.where(too_much, pivot, low))
    high = tl.min(tl.where(too_much, high, pivot))
    all_above = tl.min(tl.where(too_much, count_of, all_above))
    count = tl.max(tl.where(too_much, count, count_of))
    mass = tl.max(tl.where(too_much, mass, mass_of))
    return low, high, count, mass, all_above
