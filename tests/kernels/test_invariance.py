"""Which operation gives a row other bits beside other rows, on one thread and on two.

These are the operations of a step, one by one: when tokens depend on the batch again, the one that
is to blame fails here.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from kernels.paged_attention import paged_step
from torch.nn import functional

from lengthwise_kernels import packed
from lengthwise_kernels.dispatch import (
    AttentionBatch,
    Penalties,
    add_rms_norm,
    invariant_linear,
    is_alike_alone,
    lay_out_attention,
    pack,
    packs_copy,
    quantise_rows,
    rms_norm,
    sample_tokens,
    scaled_linear,
    silu_mul,
)
from lengthwise_kernels.reference.layers import rotate

Rows = Callable[[torch.Tensor], torch.Tensor]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PARTS = ((0, 1), (1, 3), (3, 6), (4, 17), (0, 16), (0, 19))
ROWS = 19


@pytest.fixture(autouse=True, params=[1, 2], ids=["one thread", "two threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def _check(operation: Rows, x: torch.Tensor) -> None:
    with torch.inference_mode():
        whole = operation(x)
        for start, end in PARTS:
            assert torch.equal(operation(x[start:end]), whole[start:end]), (start, end)


def _normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(896, 96), (1025, 64), (4864, 64), (97, 33)], ids=str)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_row_of_a_projection_is_the_same_beside_any_others(
    dtype: torch.dtype, size: tuple[int, int], is_packed: bool
) -> None:
    """The bias takes away all but what rounding to 16 bits would hide. Single rows are computed
    once where the machine is found to allow it."""
    columns, rows = size
    weight = _normal(rows, columns, dtype=dtype) * 0.05
    if is_packed and not packs_copy(weight):
        pytest.skip("is not packed here")
    row = _normal(1, columns, dtype=dtype) + 0.1
    bias = -functional.linear(row, weight)[0]
    stored = pack(weight) if is_packed else weight
    for lone in {False, is_alike_alone(stored)}:
        _check(partial(_invariant, stored, bias, lone), row.repeat(ROWS, 1))


def _invariant(
    weight: torch.Tensor, bias: torch.Tensor, lone: bool, x: torch.Tensor
) -> torch.Tensor:
    return invariant_linear(x, weight, bias, lone=lone)


@pytest.mark.parametrize("size", [(896, 96), (1025, 64), (97, 33), (300, 1)], ids=str)
def test_packed_float32_weights_give_the_bits_of_plain_ones(size: tuple[int, int]) -> None:
    """So that workers that map their weights and those that pack them compute alike."""
    columns, rows = size
    weight, x = _normal(rows, columns), _normal(ROWS, columns)
    if not packs_copy(weight):
        pytest.skip("is not packed here")
    bias, stored = _normal(rows), pack(weight)
    for count in (0, 1, 2, 3, 7, 8, ROWS):
        plain = invariant_linear(x[:count], weight, bias)
        assert torch.equal(invariant_linear(x[:count], stored, bias), plain), count
        assert torch.equal(invariant_linear(x[:count], stored, bias, lone=True), plain), count


def test_where_packed_weights_compute_otherwise_they_stay_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "pack", lambda weight: weight * (1 + 2**-20))
    assert not packed._is_alike_packed.__wrapped__(64, 96)


def test_a_row_of_a_projection_that_is_not_invariant_varies() -> None:
    weight, row = _normal(96, 400), _normal(1, 400) + 0.1
    bias = -functional.linear(row, weight)[0]
    with pytest.raises(AssertionError):
        _check(lambda x: functional.linear(x, weight, bias), row.repeat(ROWS, 1))


@pytest.mark.parametrize("size", [(896, 1152), (97, 33)], ids=str)
def test_a_row_of_an_8_bit_projection_is_the_same_beside_any_others(size: tuple[int, int]) -> None:
    weight = quantise_rows(_normal(size[1], size[0]))
    _check(
        lambda x: scaled_linear(quantise_rows(x), weight, None, torch.bfloat16),
        _normal(ROWS, size[0], dtype=torch.bfloat16),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 100])
def test_a_row_of_norms_gates_and_rotations_is_the_same_beside_any_others(
    dtype: torch.dtype, size: int
) -> None:
    weight = _normal(size, dtype=dtype)
    x = _normal(ROWS, size, dtype=dtype)
    _check(lambda x: rms_norm(x, weight, 1e-6), x)
    _check(lambda x: add_rms_norm(x, x, weight, 1e-6)[0], x)
    _check(silu_mul, 4 * _normal(ROWS, 2 * size, dtype=dtype))
    angles = 1000 * torch.rand(ROWS, size // 2)
    both = torch.cat((x.float(), angles), dim=1)

    def turn(rows: torch.Tensor) -> torch.Tensor:
        heads, angles = rows[:, :size].to(dtype), rows[:, size:]
        return rotate(heads.unsqueeze(1), angles.cos().to(dtype), angles.sin().to(dtype))

    _check(turn, both)


@pytest.mark.parametrize(
    ("vocab_size", "top_k", "top_p", "min_p"),
    [(259, 0, 1.0, 0.0), (259, 40, 1.0, 0.0), (33_001, 0, 0.9, 0.0), (259, 30, 0.8, 0.02)],
)
def test_a_row_draws_the_same_token_with_the_same_report_beside_any_others(
    vocab_size: int, top_k: int, top_p: float, min_p: float
) -> None:
    def draw(scores: torch.Tensor) -> torch.Tensor:
        count = len(scores)
        some = torch.full((count,), 1.1)
        return sample_tokens(
            scores,
            temperatures=some,
            seeds=torch.full((count,), 5),
            positions=torch.full((count,), 9),
            top_k=torch.full((count,), top_k),
            top_p=torch.full((count,), top_p),
            min_p=torch.full((count,), min_p),
            penalties=Penalties(
                counts=torch.arange(2 * vocab_size, dtype=torch.int32).view(2, -1) % 5,
                slots=torch.ones(count, dtype=torch.int64),
                repetition=some,
                presence=some,
                frequency=some,
            ),
        )

    scores = 3 * _normal(ROWS, vocab_size)
    _check(draw, scores)
    _check(partial(torch.log_softmax, dim=-1), scores)


SEVEN, ONE = ((7, 1), 64), ((2, 2), 24)
"""(query heads, key heads), size: seven queries of a key head, and one."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "shape", "window", "block_size"),
    [
        (torch.bfloat16, SEVEN, None, 16),
        (torch.bfloat16, ONE, 37, 24),
        (torch.bfloat16, SEVEN, 600, 16),
        (torch.float16, ONE, None, 16),
        (torch.float16, SEVEN, 37, 24),
        (torch.float16, ONE, 600, 16),
        (torch.float32, SEVEN, None, 16),
        (torch.float32, ONE, 37, 24),
        (torch.float32, SEVEN, 600, 16),
    ],
    ids=str,
)
def test_attention_of_a_token_is_the_same_in_a_prompt_a_chunk_and_a_decode_step(
    dtype: torch.dtype, shape: tuple[tuple[int, int], int], window: int | None, block_size: int
) -> None:
    """Among others a prompt at once, in chunks over a prefix, in rows alone and in a crowd."""
    assert not _varying(True, dtype, *shape, window, block_size)


@pytest.mark.slow
def test_attention_that_is_not_invariant_varies() -> None:
    assert _varying(False, torch.float32, (2, 2), 32, None, 16)


def _varying(
    invariant: bool,
    dtype: torch.dtype,
    heads: tuple[int, int],
    head_dim: int,
    window: int | None,
    block_size: int,
) -> list[tuple[int, int]]:
    """Parts of a prompt that are another way computed apart, or beside others, than at once."""
    length = 600
    step = paged_step(
        [(length, 0)],
        heads=heads,
        head_dim=head_dim,
        dtype=dtype,
        window=window,
        block_size=block_size,
    )
    step.layer.nan_to_num_()  # as `clear_blocks` leaves them
    spec = type(step.spec)(
        num_heads=step.spec.num_heads,
        num_kv_heads=step.spec.num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=step.spec.device,
        invariant=invariant,
    )

    def attend(parts: list[tuple[int, int]]) -> torch.Tensor:
        batch = AttentionBatch(
            query_lengths=[end - start for start, end in parts],
            starts=[start for start, _ in parts],
            block_ids=[step.batch.block_ids[0]] * len(parts),
            block_size=block_size,
        )
        plans = lay_out_attention(batch, windows=[window], sampled=None, spec=spec).form.bind({})
        queries = torch.cat([step.queries[start:end] for start, end in parts])
        return plans.plans[window].attend(queries, step.layer, step.scale)

    with torch.inference_mode():
        whole = attend([(0, length)])
        singles = [0, 100, 191, 200, 300, 384, 511, 512, 599]
        parts = [(at, at + 1) for at in singles]
        parts += [(0, 33), (7, 12), (250, 543), (500, 515)]
        expected = [whole[start:end] for start, end in parts]
        lengths = [end - start for start, end in parts]
        together = torch.split(attend(parts), lengths)
        return [
            part
            for part, one, other in zip(parts, expected, together, strict=True)
            if not (torch.equal(attend([part]), one) and torch.equal(other, one))
        ]
