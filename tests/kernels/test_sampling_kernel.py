"""The sampling kernel: Philox bit for bit, noise as exact as float32, tokens those of the truth."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.reference import sampling as truth
from lengthwise_kernels.reference.penalties import Penalties

pytest.importorskip("triton", reason="Triton is not installed")
import triton
import triton.language as tl

from lengthwise_kernels.gpu import sampling, sampling_threshold
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
    ("vocab_size", "filters"),
    [
        (333, [(0, 1.0, 0.0), (3, 1.0, 0.0), (0, 0.8, 0.2), (50, 0.6, 0.0)]),
        (1003, [(0, 1.0, 0.0), (1, 1.0, 0.0), (7, 1.0, 0.0), (0, 0.5, 0.0), (0, 1e-6, 0.0)] * 2),
        (1003, [(0, 1.0, 0.3), (20, 0.7, 0.0), (40, 0.9, 0.1), (5000, 1.0, 0.0)] * 2),
    ],
    ids=["few-scores", "one-filter", "several-filters"],
)
def test_rows_of_a_batch_ask_for_different_things(
    device: str, vocab_size: int, filters: list[tuple[int, float, float]]
) -> None:
    """Tokens are those of the truth."""
    scores = 2 * torch.randn(len(filters), vocab_size)
    top_k, top_p, min_p = zip(*filters, strict=True)
    _check(scores, top_k, top_p, min_p, device)


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


@pytest.mark.parametrize(
    ("scores", "top_k", "top_p", "kept"),
    [
        ([1.0, 1.0, 0.0, -0.0, 0.0, -5.0], 3, 1.0, 5),
        # 0.73 of the two is the first's.
        ([1.0, 0.0, -0.5], 2, 0.75, 2),
    ],
    ids=["ties", "mass-of-top-k"],
)
def test_all_at_a_threshold_stay(
    device: str, scores: list[float], top_k: int, top_p: float, kept: int
) -> None:
    """The truth says with which seeds each is drawn."""

    def arguments(seeds: torch.Tensor) -> dict[str, Any]:
        count = len(seeds)
        filters = {"top_k": torch.full((count,), top_k), "top_p": torch.full((count,), top_p)}
        return _arguments(count, len(scores), device, seeds=seeds, **filters)

    row = torch.tensor([scores], device=device)
    tokens = truth.sample_tokens(row.repeat(100, 1), **arguments(torch.arange(100))).tolist()
    assert set(tokens) == set(range(kept))
    seeds = torch.tensor([tokens.index(token) for token in range(kept)])
    assert sample_tokens(row.repeat(kept, 1), **arguments(seeds)).tolist() == list(range(kept))


@pytest.mark.slow
def test_more_than_one_block_of_scores_is_searched(device: str) -> None:
    scores = torch.randn(1, 20_000)
    _check(scores, [50], [0.9], [0.0], device)


class Reads:
    """How often a row is read, in passes over it."""

    def __init__(self, vocab_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes = 0.0
        read = sampling_threshold.read_scores

        def counted(row: Any, token: Any) -> Any:
            self.passes += len(token.handle.data) / (-(-vocab_size // 8192) * 8192)
            return read(row, token)

        for module in (sampling, sampling_threshold):
            monkeypatch.setattr(module, "read_scores", counted)


def _flat(vocab_size: int) -> torch.Tensor:
    return 0.01 * torch.randn(1, vocab_size)


def _in_few_columns(vocab_size: int) -> torch.Tensor:
    """The best tokens are multiples of 8,192 apart, and the others equal."""
    scores = torch.zeros(1, vocab_size)
    scores[0, ::8192] += 3.0
    return scores


ROWS: dict[str, Callable[[int], torch.Tensor]] = {
    "peaked": lambda vocab_size: 3 * torch.randn(1, vocab_size),
    "flat": _flat,
    "few columns": _in_few_columns,
    "equal": lambda vocab_size: torch.zeros(1, vocab_size),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "top_k", "top_p", "min_p", "most"),
    [
        ("flat", 0, 1.0, 0.0, 1),
        ("peaked", 0, 1.0, 0.2, 2),
        ("flat", 20, 1.0, 0.0, 5),
        ("equal", 20, 1.0, 0.0, 5),
        ("flat", 0, 0.95, 0.0, 5),
        ("few columns", 0, 0.95, 0.0, 5),
        ("peaked", 20, 0.8, 0.0, 6),
        ("few columns", 20, 0.8, 0.0, 6),
        ("flat", 9000, 1.0, 0.0, 5),
        ("equal", 9000, 1.0, 0.0, 5),
        ("peaked", 9000, 0.9, 0.1, 9),
        ("flat", 9000, 0.9, 0.1, 9),
        ("few columns", 9000, 0.9, 0.1, 9),
    ],
)
def test_a_row_is_read_a_few_times(
    device: str,
    row: str,
    top_k: int,
    top_p: float,
    min_p: float,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device != "cpu":
        pytest.skip("counts what the interpreter reads")
    vocab_size = 28_000
    reads = Reads(vocab_size, monkeypatch)
    _check(ROWS[row](vocab_size), [top_k], [top_p], [min_p], device)
    assert reads.passes <= most + (row == "equal"), reads.passes


def test_a_row_without_temperature_takes_its_best_token_whatever_it_asks_for(device: str) -> None:
    scores = torch.randn(2, 333).to(torch.bfloat16)
    arguments = _arguments(
        2,
        333,
        device,
        temperatures=torch.zeros(2),
        top_k=torch.tensor([3, 0]),
        seeds=torch.ones(2, dtype=torch.int64),
    )
    assert torch.equal(sample_tokens(scores.to(device), **arguments).cpu(), scores.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_penalties_and_temperatures_are_those_of_the_truth(device: str, dtype: torch.dtype) -> None:
    """Rows of slot 0 have none, whatever their numbers say."""
    rows, vocab_size = 4, 333
    scores = (3 * torch.randn(rows, vocab_size)).to(dtype).to(device)
    counts = torch.randint(0, 7, (3, vocab_size), dtype=torch.int32)
    counts[0] = 0
    penalties = Penalties(
        counts=counts.to(device),
        slots=torch.tensor([2, 0, 1, 2], device=device),
        repetition=torch.tensor([1.3, 1.2, 1.0, 0.8], device=device),
        presence=torch.tensor([0.0, 1.0, 0.7, -0.5], device=device),
        frequency=torch.tensor([0.4, 1.0, 0.0, -0.1], device=device),
    )
    arguments = _arguments(
        rows, vocab_size, device,
        temperatures=torch.tensor([0.0, 0.7, 1.3, 0.2]),
        seeds=torch.tensor(SEEDS),
        top_k=torch.tensor([0, 0, 20, 0]),
        top_p=torch.tensor([1.0, 0.9, 0.8, 1.0]),
    )  # fmt: skip
    arguments["penalties"] = penalties
    assert torch.equal(sample_tokens(scores, **arguments), truth.sample_tokens(scores, **arguments))


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
        **_arguments(
            2,
            333,
            device,
            top_k=torch.full((2,), top_k),
            top_p=torch.full((2,), top_p),
            min_p=torch.full((2,), min_p),
        ),
    ).tolist()
    assert 0 <= first < 333
    assert odd == -torch.inf or second == 7


def test_what_is_no_score_is_refused(device: str) -> None:
    with pytest.raises(UnsupportedByKernel, match=r"\[any, any\] of float32 .*of int64"):
        sample_tokens(
            torch.zeros(1, 8, dtype=torch.int64, device=device), **_arguments(1, 8, device)
        )


def _arguments(rows: int, vocab_size: int, device: str, **given: torch.Tensor) -> dict[str, Any]:
    """Of `sample_tokens`: those given, and nothing that is not asked for."""
    whole, part = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows)
    arguments: dict[str, Any] = {
        "temperatures": part + 1,
        "seeds": whole,
        "positions": whole + 5,
        "top_k": whole,
        "top_p": part + 1,
        "min_p": part,
        **given,
    }
    arguments = {name: tensor.to(device) for name, tensor in arguments.items()}
    arguments.setdefault(
        "penalties",
        Penalties(
            counts=torch.zeros(1, vocab_size, dtype=torch.int32, device=device),
            slots=whole.to(device),
            repetition=part.to(device),
            presence=part.to(device),
            frequency=part.to(device),
        ),
    )
    return arguments


def _check(
    scores: torch.Tensor,
    top_k: Sequence[int],
    top_p: Sequence[float],
    min_p: Sequence[float],
    device: str,
) -> list[int]:
    rows, vocab_size = scores.shape
    arguments = _arguments(
        rows, vocab_size, device,
        seeds=torch.tensor(SEEDS).repeat(rows)[:rows],
        positions=torch.arange(rows),
        top_k=torch.tensor(top_k),
        top_p=torch.tensor(top_p),
        min_p=torch.tensor(min_p),
    )  # fmt: skip
    scores = scores.to(device)
    tokens = sample_tokens(scores, **arguments)
    assert torch.equal(tokens, truth.sample_tokens(scores, **arguments))
    ids: list[int] = tokens.tolist()
    return ids
