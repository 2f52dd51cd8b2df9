"""Triton's products of adapters against PyTorch's, and how rows are put into tiles."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_kernels import low_rank as truth
from lengthwise_kernels.attention_plan import PaddedShape
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.low_rank import AdapterRows, LowRankProduct, StepAdapters
from lengthwise_kernels.staging import to_device

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu.adapters import low_rank
from lengthwise_kernels.gpu.adapters.low_rank import (
    TILE_ROWS,
    add_low_rank,
    lay_out_adapters,
    most_tiles,
)

NUM_ADAPTERS = 5
SLOTS = [2, -1, 0, 0, 4, -1, 2, 1, 0, *[3] * 18, 2]
"""More rows of one adapter than a tile has, and rows that have none."""


def _product(
    rank: int, inputs: int, outputs: Sequence[tuple[int, int]], dtype: torch.dtype, device: str
) -> LowRankProduct:
    product = LowRankProduct.zeros(NUM_ADAPTERS, rank, inputs, outputs, dtype, torch.device(device))
    generator = torch.Generator().manual_seed(1)
    for table in (product.down, product.up):
        numbers = torch.randn(table.shape, generator=generator) / math.sqrt(inputs)
        table.copy_(numbers)
    return product


def _random(rows: int, width: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, width, generator=generator).to(device, dtype)


def _bound(slots: Sequence[int], device: str, padded_to: PaddedShape | None = None) -> StepAdapters:
    numbers = np.array(slots)
    arrays = lay_out_adapters(numbers, numbers[::2], NUM_ADAPTERS, padded_to)
    bound = StepAdapters.bind(to_device(arrays, torch.device(device)))
    assert bound is not None
    return bound


# Projections of q, k and v, of which adapters change all or some, gate and up, and single ones;
# ranks below, of and above a tile's; inputs in several pieces, whole ones and not.
SHAPES: list[tuple[int, int, list[tuple[int, int]]]] = [
    (16, 128, [(0, 128), (128, 32), (160, 32)]),
    (4, 72, [(0, 40), (56, 16)]),
    (80, 192, [(0, 200)]),
    (3, 33, [(7, 21)]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("rank", "inputs", "outputs"), SHAPES)
def test_each_row_gains_its_own_adapters_product(
    rank: int,
    inputs: int,
    outputs: list[tuple[int, int]],
    dtype: torch.dtype,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    exact_products: None,
) -> None:
    monkeypatch.setattr(low_rank, "_SPLIT", 64)
    product = _product(rank, inputs, outputs, dtype, device)
    x = _random(len(SLOTS), inputs, dtype, device)
    before = _random(len(SLOTS), product.num_outputs + 5, dtype, device)
    expected = truth.add_low_rank(
        before.clone().float().cpu(),
        x.float().cpu(),
        _float(product),
        AdapterRows(torch.tensor(SLOTS)),
    )
    got = add_low_rank(before.clone(), x, product, _bound(SLOTS, device).tokens).cpu()
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=tolerance)
    others = torch.tensor(SLOTS) < 0
    assert torch.equal(got[others], before.cpu()[others])
    for name, begin, end in _untouched(product, before.shape[1]):
        assert torch.equal(got[:, begin:end], before.cpu()[:, begin:end]), name


def _float(product: LowRankProduct) -> LowRankProduct:
    copy = LowRankProduct.zeros(
        NUM_ADAPTERS,
        product.rank,
        product.num_inputs,
        [(begin, up.shape[1]) for begin, up in product.ups],
        torch.float32,
        torch.device("cpu"),
    )
    copy.down.copy_(product.down)
    copy.up.copy_(product.up)
    return copy


def _untouched(product: LowRankProduct, width: int) -> list[tuple[str, int, int]]:
    """Outputs between those of the projections."""
    ends = [0, *(begin + up.shape[1] for begin, up in product.ups)]
    begins = [*(begin for begin, _ in product.ups), width]
    return [(f"{end}:{begin}", end, begin) for end, begin in zip(ends, begins, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_is_the_same_to_the_bit_whatever_is_beside_it(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch, exact_products: None
) -> None:
    monkeypatch.setattr(low_rank, "_SPLIT", 64)
    product = _product(16, 192, [(0, 64), (64, 48)], dtype, device)
    x = _random(len(SLOTS), 192, dtype, device)
    zeros = torch.zeros(len(SLOTS), 112, dtype=dtype, device=device)
    together = add_low_rank(zeros.clone(), x, product, _bound(SLOTS, device).tokens)
    shape = PaddedShape(tokens=32, sequences=32, rows=32)
    padded = add_low_rank(zeros.clone(), x, product, _bound(SLOTS, device, shape).tokens)
    assert torch.equal(padded, together)
    for first, last in ((0, 1), (3, 5), (8, 27), (20, 21)):
        part = slice(first, last)
        rows = _bound(SLOTS[part], device).tokens
        assert torch.equal(
            add_low_rank(zeros[part].clone(), x[part], product, rows), together[part]
        )


@given(
    slots=st.lists(st.integers(-1, 9), min_size=1, max_size=70),
    room=st.none() | st.integers(0, 200),
)
def test_each_row_with_an_adapter_is_in_one_tile_of_it(slots: list[int], room: int | None) -> None:
    numbers = np.array(slots)
    size = None if room is None else len(slots) + room
    padded_to = None if size is None else PaddedShape(tokens=size, sequences=size, rows=size)
    arrays = lay_out_adapters(numbers, numbers, 10, padded_to)
    tiles, rows = arrays["adapters.tokens.tiles"], arrays["adapters.tokens.rows"]
    found = {}
    for tile, own in zip(tiles.tolist(), rows.reshape(-1, TILE_ROWS).tolist(), strict=True):
        assert tile >= 0 or set(own) == {-1}
        for row in own:
            if row >= 0:
                assert row not in found
                found[row] = tile
    assert found == {row: slot for row, slot in enumerate(slots) if slot >= 0}
    if size is not None:
        assert len(tiles) == most_tiles(size, 10)


def test_what_the_kernel_was_not_written_for_is_refused(device: str) -> None:
    product = _product(4, 32, [(0, 16)], torch.float32, device)
    rows = _bound([0], device).tokens
    good: dict[str, Any] = {
        "result": torch.zeros(1, 16, device=device),
        "x": torch.zeros(1, 32, device=device),
    }
    for name, wrong in (
        ("x", torch.zeros(1, 31, device=device)),
        ("result", torch.zeros(1, 16, dtype=torch.bfloat16, device=device)),
        ("result", torch.zeros(1, 15, device=device)),
    ):
        with pytest.raises(UnsupportedByKernel, match="add_low_rank"):
            add_low_rank(**{**good, name: wrong}, product=product, rows=rows)
