"""The sampling kernel: Philox bit for bit, noise as exact as float32, tokens those of the truth."""

import pytest
import torch

from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.reference import sampling as truth

pytest.importorskip("triton", reason="Triton is not installed")
import triton
import triton.language as tl

from lengthwise_kernels.gpu.sampling import gumbel, philox_words, sample_tokens

SEEDS = [0, -1, 2**40 + 3, -(2**63)]


@triton.jit  # type: ignore[untyped-decorator]
def _words_kernel(seeds_ptr, positions_ptr, words_ptr, noise_ptr, QUADS: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    quad = tl.arange(0, QUADS)
    words = philox_words(tl.load(seeds_ptr + row), tl.load(positions_ptr + row), quad)
    for index in tl.static_range(4):
        at = (row * QUADS + quad) * 4 + index
        tl.store(words_ptr + at, words[index].to(tl.int64))
        tl.store(noise_ptr + at, gumbel(words[index]))


def test_words_are_those_of_the_truth_and_noise_is_exact(device: str) -> None:
    seeds = torch.tensor(SEEDS, device=device)
    positions = torch.tensor([0, 17, 40_000, 2**31], device=device)
    words = torch.zeros(4, 64, 4, dtype=torch.int64, device=device)
    noise = torch.zeros(4, 64, 4, device=device)
    _words_kernel[(4,)](seeds, positions, words, noise, QUADS=64)
    quads = torch.arange(64, device=device)
    zero = torch.zeros_like(quads)
    for row in range(4):
        key = seeds[row] & 0xFFFFFFFF, (seeds[row] >> 32) & 0xFFFFFFFF
        expected = truth.philox4x32((quads, positions[row], zero, zero), key)
        assert torch.equal(words[row], torch.stack(expected, dim=-1))
    exact = truth.gumbel_noise_everywhere(seeds, positions, 256).double().view(4, 64, 4)
    torch.testing.assert_close(noise.double(), exact, atol=4e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (7, 1.0, 0.0),
        (0, 0.5, 0.0),
        (0, 1e-6, 0.0),
        (0, 1.0, 0.3),
        (20, 0.7, 0.0),
        (40, 0.9, 0.1),
        (5000, 1.0, 0.0),
    ],
    ids=lambda value: str(value),
)
def test_tokens_are_those_of_the_truth(device: str, top_k: int, top_p: float, min_p: float) -> None:
    _check(2 * torch.randn(2, 1003), [top_k] * 2, [top_p] * 2, [min_p] * 2, device)


@pytest.mark.slow
def test_rows_of_a_batch_ask_for_different_things(device: str) -> None:
    _check(torch.randn(4, 333), [0, 3, 0, 50], [1.0, 1.0, 0.8, 0.6], [0.0, 0.0, 0.2, 0.0], device)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(0, 1.0, 0.0), (3, 1.0, 0.0), (40, 0.9, 0.0), (0, 0.999, 0.1)]
)
def test_a_token_of_logit_minus_infinity_is_never_drawn(
    device: str, top_k: int, top_p: float, min_p: float
) -> None:
    scores = torch.randn(4, 333)
    scores[:, :300] = -torch.inf
    tokens = _check(scores, [top_k] * 4, [top_p] * 4, [min_p] * 4, device)
    assert min(tokens) >= 300


@pytest.mark.slow
def test_ties_at_a_threshold_all_stay(device: str) -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0, -0.0, 0.0, -5.0]]).repeat(24, 1)
    tokens = sample_tokens(
        scores.to(device),
        seeds=torch.arange(24, device=device),
        positions=torch.full((24,), 5, device=device),
        top_k=torch.full((24,), 3, device=device),
        top_p=torch.ones(24, device=device),
        min_p=torch.zeros(24, device=device),
    )
    assert set(tokens.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_more_than_one_block_of_scores_is_searched(device: str) -> None:
    scores = torch.randn(1, 20_000)
    _check(scores, [50], [0.9], [0.0], device)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("odd", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(0, 1.0, 0.0), (3, 0.9, 0.0), (0, 0.5, 0.1)])
def test_a_row_that_is_broken_shows_a_token_that_is(
    device: str, odd: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Whoever looks at its score finds it out."""
    scores = torch.randn(2, 333)
    scores[0] = odd
    if odd != -torch.inf:
        scores[1, 7] = odd
    first, second = sample_tokens(
        scores.to(device),
        seeds=torch.arange(2, device=device),
        positions=torch.full((2,), 5, device=device),
        top_k=torch.full((2,), top_k, device=device),
        top_p=torch.full((2,), top_p, device=device),
        min_p=torch.full((2,), min_p, device=device),
    ).tolist()
    assert 0 <= first < 333
    assert odd == -torch.inf or second == 7


def test_what_is_no_score_is_refused(device: str) -> None:
    row = torch.zeros(1, dtype=torch.int64, device=device)
    part = torch.zeros(1, device=device)
    with pytest.raises(UnsupportedByKernel, match=r"\[any, any\] of float32 .*of bfloat16"):
        sample_tokens(
            torch.zeros(1, 8, dtype=torch.bfloat16, device=device),
            seeds=row, positions=row, top_k=row, top_p=part, min_p=part,
        )  # fmt: skip


def _check(
    scores: torch.Tensor,
    top_k: list[int],
    top_p: list[float],
    min_p: list[float],
    device: str,
) -> list[int]:
    rows = len(scores)
    arguments = {
        "seeds": torch.tensor(SEEDS[:rows], device=device),
        "positions": torch.arange(rows, device=device),
        "top_k": torch.tensor(top_k, device=device),
        "top_p": torch.tensor(top_p, device=device),
        "min_p": torch.tensor(min_p, device=device),
    }
    scores = scores.to(device)
    tokens = sample_tokens(scores, **arguments)
    assert torch.equal(tokens, truth.sample_tokens(scores, **arguments))
    ids: list[int] = tokens.tolist()
    return ids
