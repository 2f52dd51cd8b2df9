"""Products of adapters against matrix products, and that no row knows of another."""

import pytest
import torch

from lengthwise_kernels.low_rank import AdapterRows, LowRankProduct, add_low_rank

NUM_ADAPTERS, RANK, INPUTS, OUTPUTS = 5, 3, 40, (24, 8)
SLOTS = torch.tensor([2, -1, 0, 0, 4, -1, 2, 1, 0])


def _product(dtype: torch.dtype) -> tuple[LowRankProduct, torch.Tensor, list[torch.Tensor]]:
    """With its A [adapters, projections, rank, in] and each projection's B [adapters, out, rank].
    Between the projections lie 7 outputs that none changes."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(NUM_ADAPTERS, 2, RANK, INPUTS, generator=generator).to(dtype)
    b = [torch.randn(NUM_ADAPTERS, size, RANK, generator=generator).to(dtype) for size in OUTPUTS]
    outputs = tuple(zip((0, OUTPUTS[0] + 7), OUTPUTS, strict=True))
    cpu = torch.device("cpu")
    product = LowRankProduct.zeros(NUM_ADAPTERS, RANK, INPUTS, outputs, dtype, cpu)
    product.down.copy_(a.permute(0, 3, 1, 2).reshape(NUM_ADAPTERS * INPUTS, 2 * RANK))
    for (_, up), matrix in zip(product.ups, b, strict=True):
        up.copy_(matrix.transpose(1, 2).reshape(NUM_ADAPTERS * RANK, -1))
    return product, a, b


def _rows(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("slots", [SLOTS, SLOTS.clamp(min=0)], ids=["some", "all"])
def test_each_row_gains_its_own_adapters_product(slots: torch.Tensor) -> None:
    product, a, b = _product(torch.float32)
    x = _rows(len(slots), torch.float32)
    before = torch.randn(len(slots), product.num_outputs, generator=torch.Generator())
    expected = before.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            first, second = (b[i][slot] @ (a[slot, i] @ x[row]) for i in (0, 1))
            expected[row, : OUTPUTS[0]] += first
            expected[row, OUTPUTS[0] + 7 :] += second
    got = add_low_rank(before.clone(), x, product, AdapterRows(slots))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert torch.equal(got[slots < 0], before[slots < 0])
    assert (product.num_inputs, product.num_outputs) == (INPUTS, sum(OUTPUTS) + 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_row_is_the_same_to_the_bit_whatever_is_beside_it(dtype: torch.dtype) -> None:
    product, _, _ = _product(dtype)
    slots = SLOTS.repeat(30)
    x, zeros = _rows(len(slots), dtype), torch.zeros(len(slots), product.num_outputs, dtype=dtype)
    together = add_low_rank(zeros.clone(), x, product, AdapterRows(slots))
    for first, last in ((0, 1), (2, 9), (100, 103), (7, 250)):
        part = slice(first, last)
        alone = add_low_rank(zeros[part].clone(), x[part], product, AdapterRows(slots[part]))
        assert torch.equal(alone, together[part])


def test_sums_are_kept_in_float32() -> None:
    product, a, b = _product(torch.bfloat16)
    x = _rows(1, torch.bfloat16)
    zeros = torch.zeros(1, product.num_outputs, dtype=torch.bfloat16)
    got = add_low_rank(zeros, x, product, AdapterRows(torch.tensor([3])))[0, : OUTPUTS[0]]
    inner = (a[3, 0].float() @ x[0].float()).bfloat16().float()
    torch.testing.assert_close(got, (b[0][3].float() @ inner).bfloat16())
