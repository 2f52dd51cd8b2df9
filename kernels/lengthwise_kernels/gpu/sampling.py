"""One token for each row of logits, drawn without the host.

    argmax over the kept tokens of score + noise, a sample of softmax(kept scores)

logits: float32, bfloat16 or float16 [rows, vocab_size]; scores are these, penalised (`penalties`),
over the row's temperature, in float32. seeds, positions, top_k: int64 [rows]; temperatures, top_p,
min_p: float32 [rows]; the result: int64 [rows]. A row of temperature 0 gets its best token. Kept
are top-k, of their mass top-p, and of that min-p; ties at a threshold all stay. The noise is
Gumbel's, made of Philox4x32-10 with key = seed and counter = (token // 4, position, 0, 0): the
words are those of `reference.sampling` bit for bit, the noise to a few units in the last place.
(Salmon et al. 2011; Maddison et al. 2014, arXiv:1411.0030.)

A program takes a row, which stays in the L2 cache, and passes over it as seldom as it can:
`sampling_threshold` finds the least score that is kept, and a last pass draws. A row without
filters is passed over once. Noise is computed only for blocks that hold a kept token. Of a row with
NaN or inf the result is the token of one.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import FLOATS, check, require
from lengthwise_kernels.gpu.sampling_threshold import key_of, read_scores, threshold
from lengthwise_kernels.reference.penalties import Penalties

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
def _sample_kernel(
    logits_ptr, temperatures_ptr, seeds_ptr, positions_ptr, top_k_ptr, top_p_ptr, min_p_ptr,
    counts_ptr, slots_ptr, repetition_ptr, presence_ptr, frequency_ptr, held_ptr, tokens_ptr,
    vocab_size, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures_ptr + index)
    slot = tl.load(slots_ptr + index)
    row = (
        logits_ptr + index * vocab_size, vocab_size, tl.where(temperature > 0, temperature, 1.0),
        slot, counts_ptr + slot * vocab_size, tl.load(repetition_ptr + index),
        tl.load(presence_ptr + index), tl.load(frequency_ptr + index),
    )  # fmt: skip
    top_k, top_p = tl.load(top_k_ptr + index), tl.load(top_p_ptr + index)
    min_p = tl.load(min_p_ptr + index)
    filtered = ((top_k > 0) & (top_k < vocab_size)) | (top_p < 1.0) | (min_p > 0.0)
    # The key of -inf: everything is kept.
    least = tl.full([], -2139095041, tl.int32)
    if filtered & (temperature > 0):
        least = threshold(row, top_k, top_p, min_p, held_ptr + index * BLOCK, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    chosen = tl.zeros([BLOCK], tl.int32)
    seed, position = tl.load(seeds_ptr + index), tl.load(positions_ptr + index)
    for first in range(0, vocab_size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = read_scores(row, token)
        kept = (key_of(score) >= least) & (token < vocab_size) | (score != score)
        if tl.max(kept.to(tl.int32), 0) > 0:
            noisy = score
            if temperature > 0:
                quad = first // 4 + tl.arange(0, BLOCK // 4)
                w0, w1, w2, w3 = philox_words(seed, position, quad)
                noisy += gumbel(tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3)))
            noisy = tl.where(kept, noisy, float("-inf"))
            noisy = tl.where(score != score, float("inf"), noisy)
            chosen = tl.where(noisy > best, token, chosen)
            best = tl.maximum(best, noisy)
    winners = tl.where(best == tl.max(best, 0), chosen, vocab_size)
    tl.store(tokens_ptr + index, tl.min(winners, 0).to(tl.int64))


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
    """A token for each row of `logits`; the same as `reference.sampling.sample_tokens`."""
    op = "sample_tokens"
    check(f"{op}: logits", logits, [None, None], FLOATS)
    rows, vocab_size = logits.shape
    whole = {"seeds": seeds, "positions": positions, "top_k": top_k, "slots": penalties.slots}
    for name, values in whole.items():
        check(f"{op}: {name}", values, [rows], (torch.int64,))
    parts = {
        "temperatures": temperatures,
        "top_p": top_p,
        "min_p": min_p,
        "repetition": penalties.repetition,
        "presence": penalties.presence,
        "frequency": penalties.frequency,
    }
    for name, values in parts.items():
        check(f"{op}: {name}", values, [rows], (torch.float32,))
    check(f"{op}: counts", penalties.counts, [None, vocab_size], (torch.int32,))
    require(0 < vocab_size < 2**24, f"{op}: vocab_size must be 1..{2**24 - 1}, got {vocab_size}")
    tokens = logits.new_empty(rows, dtype=torch.int64)
    if rows:
        block = min(_BLOCK, max(1024, triton.next_power_of_2(vocab_size)))
        held = logits.new_empty((rows, block), dtype=torch.float32)
        _sample_kernel[(rows,)](
            logits, temperatures, seeds, positions, top_k, top_p, min_p, penalties.counts,
            penalties.slots, penalties.repetition, penalties.presence, penalties.frequency, held,
            tokens, vocab_size, BLOCK=block, num_warps=16,
        )  # fmt: skip
    return tokens
