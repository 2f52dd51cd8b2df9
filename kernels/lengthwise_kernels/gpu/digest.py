"""Digests of memory on the device, so that no byte of it has to go to the host.

    digest[p] = sum_i mix(word_i + (i + 1) g) mod 2^64    over the words i of piece p

words: int64 [n]; the result: int64 [ceil(n / PIECE)]; see `reference.digest`.

Memory-bound: every word is read once, and takes two products of 64 bits; a program takes a piece.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check
from lengthwise_kernels.reference import digest as truth

_WARPS: Final = 8
"""16 words for each of 256 threads: eight loads of 16 bytes in flight."""

_GOLDEN = tl.constexpr(truth.GOLDEN)
_FIRST_FACTOR, _SECOND_FACTOR = map(tl.constexpr, truth.FACTORS)


@triton.jit
def _digest_kernel(words_ptr, digests_ptr, count, PIECE: tl.constexpr):
    piece = tl.program_id(0).to(tl.int64)
    number = piece * PIECE + tl.arange(0, PIECE)
    inside = number < count
    word = tl.load(words_ptr + number, mask=inside, other=0).to(tl.uint64, bitcast=True)
    mixed = word + (number + 1).to(tl.uint64) * _GOLDEN
    mixed = (mixed ^ (mixed >> 30)) * _FIRST_FACTOR
    mixed = (mixed ^ (mixed >> 27)) * _SECOND_FACTOR
    mixed = (mixed ^ (mixed >> 31)).to(tl.int64, bitcast=True)
    tl.store(digests_ptr + piece, tl.sum(tl.where(inside, mixed, 0), 0))


def digest(words: torch.Tensor) -> torch.Tensor:
    """The same as `reference.digest.digest`."""
    check("digest: words", words, [None], (torch.int64,))
    digests = words.new_empty(triton.cdiv(len(words), truth.PIECE))
    if len(words):
        _digest_kernel[(len(digests),)](
            words, digests, len(words), PIECE=truth.PIECE, num_warps=_WARPS
        )
    return digests
