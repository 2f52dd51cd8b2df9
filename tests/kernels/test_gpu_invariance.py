"""Which kernel gives a row other bits beside other rows: none of those that `numerics: invariant`
takes on a GPU. Interpreted where there is none; what the compiler makes of them, `test_hopper.py`
says, and each worker tries its own GPU when it starts (tests/gpu/test_numerics.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from kernels.paged_attention import PagedStep, paged_step

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.attention_plan import (
    AttentionBatch,
    AttentionLayout,
    AttentionSpec,
    PaddedShape,
)
from lengthwise_kernels.dispatch import Penalties
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.gpu import quantise_rows, rms_norm, sampling, scaled_linear, silu_mul
from lengthwise_kernels.gpu.attention import fixed_splits, fixed_splits_plan
from lengthwise_kernels.gpu.attention.plan import check_attention, lay_out_attention
from lengthwise_kernels.gpu.experts.combine import combine
from lengthwise_kernels.gpu.experts.grouped_linear import gathered_linear, scattered_linear
from lengthwise_kernels.gpu.experts.routing import route
from lengthwise_kernels.gpu.invariant_linear import invariant_linear
from lengthwise_kernels.reference.fp8 import Fp8Rows
from lengthwise_kernels.staging import to_device

pytestmark = pytest.mark.usefixtures("exact_products")

Rows = Callable[[torch.Tensor], torch.Tensor]
Part = tuple[int, int]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
ROWS = 70
"""More than a tile."""


def _normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def _varying(operation: Rows, x: torch.Tensor, parts: Sequence[Part]) -> list[Part]:
    """Parts of the rows that come out another way apart than among all."""
    whole = operation(x)
    return [
        part for part in parts if not torch.equal(operation(x[slice(*part)]), whole[slice(*part)])
    ]


COUNTS = [(0, count) for count in (1, 2, 3, 15, 16, 17, 32, 33, 63, 64, 65)]
COUNTS += [(start, ROWS) for start in (1, 63, 64, 69)]
"""Around every power of 2 that tiles may be chosen by, and from within a tile on."""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_a_product_is_the_same_beside_any_number_of_others(
    device: str, dtype: torch.dtype
) -> None:
    """Less its own result, so that what rounding to 16 bits would hide shows."""
    weight = _normal(37, 200, dtype=dtype).to(device) * 0.1
    x = _normal(ROWS, 200, dtype=dtype).to(device)
    exact = (x.double() @ weight.double().T).float()
    got = invariant_linear(x, weight, None)
    torch.testing.assert_close(got.float(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    same = x[:1].repeat(ROWS, 1)
    bias = -invariant_linear(same[:1], weight, None)[0]
    left = invariant_linear(same, weight, bias)
    assert torch.equal(left, left[:1].expand(ROWS, -1))
    assert not _varying(lambda rows: invariant_linear(rows, weight, bias), x, COUNTS)


@pytest.mark.slow
def test_a_row_of_an_8_bit_product_is_the_same_beside_any_number_of_others(device: str) -> None:
    """Of quantised rows, which below are found to be the same."""
    weight = quantise_rows.quantise_rows(_normal(37, 200).to(device))
    x = quantise_rows.quantise_rows(_normal(ROWS, 200).to(device))

    def product(rows: torch.Tensor) -> torch.Tensor:
        part = Fp8Rows(values=x.values[rows], scales=x.scales[rows])
        return scaled_linear.scaled_linear(part, weight, None, torch.float32, invariant=True)

    assert not _varying(product, torch.arange(ROWS, device=device), COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_gets_the_same_from_its_experts_beside_any_number_of_others(
    device: str, dtype: torch.dtype
) -> None:
    gate_up = 0.1 * _normal(5, 74, 96, dtype=dtype).to(device)
    down = 0.1 * _normal(5, 96, 37, dtype=dtype).to(device)
    scores = _normal(ROWS, 5).to(device)
    x = _normal(ROWS, 96, dtype=dtype).to(device)

    def experts(rows: torch.Tensor) -> torch.Tensor:
        routes = route(scores[rows].contiguous(), 2, is_normalised=True)
        inner = gathered_linear(x[rows].contiguous(), gate_up, routes, dtype)
        gated = silu_mul.silu_mul(inner)
        return combine(scattered_linear(gated, down, routes, dtype), routes)

    assert not _varying(experts, torch.arange(ROWS, device=device), COUNTS)


def test_a_row_of_norms_gates_and_draws_is_the_same_beside_any_others(device: str) -> None:
    """Each has a kernel of its own, fast or not."""
    weight, x = _normal(100).to(device), _normal(5, 200).to(device)

    def draw(scores: torch.Tensor) -> torch.Tensor:
        whole = torch.full((len(scores),), 7, device=x.device)
        part = torch.full((len(scores),), 0.8, device=x.device)
        counts = torch.arange(scores.shape[1], dtype=torch.int32, device=x.device) % 5
        return sampling.sample_tokens(
            scores,
            temperatures=part,
            seeds=whole,
            positions=whole,
            top_k=whole,
            top_p=part,
            min_p=part / 16,
            penalties=Penalties(
                counts=counts.repeat(8, 1),
                slots=whole,
                repetition=part,
                presence=part,
                frequency=part,
            ),
        )

    operations: dict[str, Rows] = {
        "norm": lambda x: rms_norm.rms_norm(x[:, :100].contiguous(), weight, 1e-6),
        "gate": lambda x: silu_mul.silu_mul(x.contiguous()),
        "quantising": lambda x: quantise_rows.quantise_rows(x.contiguous()).values.float(),
        "draw": lambda x: draw(x.contiguous()),
    }
    parts = [(0, 1), (2, 3), (1, 5)]
    varying = {name for name, operation in operations.items() if _varying(operation, x, parts)}
    assert not varying


def _shorten_splits(monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
    for module in (fixed_splits, fixed_splits_plan):
        monkeypatch.setattr(module, "SPLIT_KEYS", keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "heads", "head_dim", "window", "block_size", "split"),
    [
        (torch.bfloat16, (4, 1), 128, None, 16, 64),
        (torch.float16, (2, 2), 24, 37, 24, 128),
        (torch.bfloat16, (7, 1), 80, 100, 16, 64),
        (torch.float32, (32, 1), 16, None, 8, 32),
    ],
    ids=["tiles-in-splits", "window", "long-window-odd-group", "two-queries-a-tile"],
)
def test_attention_of_a_token_is_the_same_in_a_prompt_a_chunk_and_a_decode_step(
    device: str,
    dtype: torch.dtype,
    heads: tuple[int, int],
    head_dim: int,
    window: int | None,
    block_size: int,
    split: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, in chunks over a prefix, in rows, each alone and all in one step; and it is
    attention."""
    _shorten_splits(monkeypatch, split)
    length = 2 * split + 12
    singles = (0, split - 1, split, length - 1)
    parts = [(at, at + 1) for at in singles]
    parts += [(0, 17), (7, 12), (split - 8, split + 12), (2 * split - 1, 2 * split + 1)]
    parts += [(split - 20, length)]
    step = paged_step(
        [(length, 0)],
        heads=heads,
        head_dim=head_dim,
        dtype=dtype,
        window=window,
        block_size=block_size,
        device=device,
    )
    whole = _attend(step, [(0, length)], window)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(whole.float(), step.expected, atol=tolerance, rtol=tolerance)
    expected = [whole[slice(*part)] for part in parts]
    assert torch.equal(_attend(step, parts, window), torch.cat(expected))
    alone = [_attend(step, [part], window) for part in parts]
    assert all(map(torch.equal, alone, expected))


@pytest.mark.slow
def test_padding_sampling_alone_and_how_many_programs_there_are_change_no_bit(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three rows with several splits, one has a program for each of them."""
    _shorten_splits(monkeypatch, 128)
    monkeypatch.setattr(fixed_splits_plan, "_LEAST_PROGRAMS", 4)
    monkeypatch.setattr(fixed_splits_plan, "_PROGRAMS_PER_QUERY", 1)
    step = paged_step([(200, 0)], heads=(4, 2), head_dim=16, dtype=torch.float16, device=device)
    whole = _attend(step, [(0, 200)], None)
    rows = [(150, 151), (10, 11), (199, 200)]
    padded_to = PaddedShape(tokens=8, sequences=8, rows=8)
    layout = _lay_out(step, rows, None, padded_to)
    assert layout.form == _lay_out(step, [(0, 1)] * 5, None, padded_to).form
    queries = torch.full((8, 4, 16), torch.nan, dtype=torch.float16, device=device)
    queries[:3] = whole_queries = torch.cat([step.queries[slice(*row)] for row in rows])
    bound = layout.form.bind(to_device(layout.arrays, step.spec.device))
    got = bound.plans[None].attend(queries, step.layer, step.scale)
    assert torch.equal(got[:3], torch.cat([whole[slice(*row)] for row in rows]))
    assert torch.equal(_attend(step, rows, None), got[:3])
    for chunks, padded_to in (
        ([(140, 151), (8, 11), (130, 200)], PaddedShape(tokens=100, sequences=4, rows=0)),
        ([(150, 151), (8, 11), (130, 200)], PaddedShape(tokens=104, sequences=8, rows=4)),
    ):
        layout = _lay_out(step, chunks, None, padded_to, sampled=[0, 1, 2])
        bound = layout.form.bind(to_device(layout.arrays, step.spec.device))
        got = bound.last.attend(whole_queries, step.layer, step.scale)
        assert torch.equal(got, torch.cat([whole[slice(*row)] for row in rows]))
        expected = torch.cat([whole[slice(*chunk)] for chunk in chunks])
        queries = torch.zeros((padded_to.tokens, 4, 16), dtype=torch.float16, device=device)
        queries[: len(expected)] = torch.cat([step.queries[slice(*chunk)] for chunk in chunks])
        got = bound.plans[None].attend(queries, step.layer, step.scale)
        assert torch.equal(got[: len(expected)], expected)


def test_a_step_that_samples_nothing_computes_nothing_for_it(device: str) -> None:
    step = paged_step([(9, 0)], heads=(4, 2), head_dim=16, dtype=torch.float16, device=device)
    layout = _lay_out(step, [(0, 9)], None, sampled=[])
    last = layout.form.bind(to_device(layout.arrays, step.spec.device)).last
    assert last.attend(step.queries[:0], step.layer, step.scale).shape == (0, 4, 16)


def test_more_query_heads_of_a_key_head_than_a_tile_has_rows_are_refused() -> None:
    spec = AttentionSpec(
        num_heads=96, num_kv_heads=1, head_dim=64, dtype=torch.float16, device=torch.device("cpu")
    )
    check_attention(spec)
    with pytest.raises(UnsupportedByKernel, match="at most 64 query heads for each key head"):
        check_attention(replace(spec, invariant=True))


@pytest.mark.slow
def test_attention_varies_in_fast_mode(device: str) -> None:
    """Shared out among the few programs that a GPU of the interpreter has. What cuBLAS does with
    other numbers of rows no interpreter knows."""
    if device != "cpu":
        pytest.skip("a GPU has a program for every tile of so few keys")
    step = paged_step([(400, 0)], heads=(2, 2), head_dim=16, dtype=torch.float32, device=device)
    attend = partial(_attend, step, window=None, invariant=False)
    alone = attend([(390, 391)])
    # So many tiles of keys that a program has two.
    assert not torch.equal(attend([(390, 391)] * 6)[:1], alone)
    assert not torch.equal(attend([(360, 391)])[-1:], alone)


def _lay_out(
    step: PagedStep,
    parts: Sequence[Part],
    window: int | None,
    padded_to: PaddedShape | None = None,
    *,
    invariant: bool = True,
    sampled: Sequence[int] | None = None,
) -> AttentionLayout:
    """Parts of the step's only sequence, side by side."""
    batch = AttentionBatch(
        query_lengths=[end - start for start, end in parts],
        starts=[start for start, _ in parts],
        block_ids=[step.batch.block_ids[0]] * len(parts),
        block_size=step.batch.block_size,
    )
    spec = replace(step.spec, invariant=invariant)
    return lay_out_attention(
        batch, windows=[window], sampled=sampled, spec=spec, padded_to=padded_to
    )


def _attend(
    step: PagedStep, parts: Sequence[Part], window: int | None, *, invariant: bool = True
) -> torch.Tensor:
    layout = _lay_out(step, parts, window, invariant=invariant)
    plans = layout.form.bind(to_device(layout.arrays, step.spec.device)).plans
    queries = torch.cat([step.queries[slice(*part)] for part in parts])
    return plans[window].attend(queries, step.layer, step.scale)
