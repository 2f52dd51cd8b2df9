"""Products with weights of 8 and 4 bits: what they are, and that a row does not see the others."""

from collections.abc import Callable

import pytest
import torch

from lengthwise_kernels.int4 import Int4Weight, int4_bytes
from lengthwise_kernels.int8 import Int8Weight, int8_bytes, multiplies_int8

Product = Callable[[torch.Tensor], torch.Tensor]
needs_vnni = pytest.mark.skipif(
    not multiplies_int8(), reason="this CPU does not add 8-bit products"
)
SHAPES = [(64, 64), (36, 112), (300, 1200), (17, 33)]


def int8(num_outputs: int, num_inputs: int) -> tuple[Int8Weight, torch.Tensor]:
    """And the numbers it stands for."""
    values = torch.randint(-128, 128, (num_outputs, num_inputs), dtype=torch.int8)
    scales = torch.rand(num_outputs) + 0.1
    return Int8Weight.of(values, scales), values.double() * scales.double().unsqueeze(1)


def int4(
    num_outputs: int, num_inputs: int, dtype: torch.dtype, group: int = 32
) -> tuple[Int4Weight, torch.Tensor]:
    codes = torch.randint(0, 16, (num_outputs, num_inputs), dtype=torch.uint8)
    num_groups = -(-num_inputs // group)
    scales = (torch.rand(num_outputs, num_groups) + 0.1).to(dtype).float()
    offsets = torch.randn(num_outputs, num_groups).to(dtype).float()
    weight = Int4Weight.of(codes, scales, offsets, group_size=group, dtype=dtype)
    groups = torch.arange(num_inputs) // group
    return weight, ((codes.double() - 8) * scales[:, groups] + offsets[:, groups])


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


@needs_vnni
@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
def test_int8_is_exact_but_for_the_last_of_sixteen_bits(num_outputs: int, num_inputs: int) -> None:
    weight, full = int8(num_outputs, num_inputs)
    for rows in (1, 3, 40):
        x = torch.randn(rows, num_inputs)
        assert error(weight.product(x), x.double() @ full.T) < 1e-4
    whole = torch.randint(-32512, 32513, (5, num_inputs)).float()
    whole[:, 0] = 32512.0  # so that a step is 1
    torch.testing.assert_close(
        weight.product(whole).double(), whole.double() @ full.T, rtol=1e-6, atol=2
    )
    assert (
        0
        <= int8_bytes(num_inputs, num_outputs) - weight.num_bytes
        <= 64 * (num_inputs + 64 + num_outputs)
    )


@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_is_the_product_with_what_its_codes_stand_for(
    num_outputs: int, num_inputs: int, dtype: torch.dtype
) -> None:
    for group in {32, 64, 512, num_inputs}:
        if group % 32 and group < num_inputs:
            continue
        weight, full = int4(num_outputs, num_inputs, dtype, group)
        for rows in (1, 5):
            x = torch.randn(rows, num_inputs).to(dtype)
            got, exact = weight.product(x), x.double() @ full.T
            assert error(got, exact) < (1e-6 if dtype == torch.float32 else 5e-3)
        assert int4_bytes(num_inputs, num_outputs, group, dtype.itemsize) == weight.num_bytes


def test_groups_that_the_kernel_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="got groups of 16 inputs, expected a multiple of 32"):
        int4(16, 64, torch.float32, group=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_is_the_same_to_the_bit_beside_any_others(dtype: torch.dtype) -> None:
    products: list[Product] = [int4(48, 1100, dtype, group=64)[0].product]
    if multiplies_int8():
        products.append(int8(48, 1100)[0].product)
    x = torch.randn(67, 1100).to(dtype)
    for product in products:
        whole = product(x)
        for start, end in ((0, 1), (1, 3), (3, 6), (0, 7), (40, 41), (6, 39), (66, 67)):
            assert torch.equal(product(x[start:end]), whole[start:end])


@needs_vnni
def test_zeros_stay_zeros_and_what_is_not_finite_spoils_its_own_row_alone() -> None:
    weight, _ = int8(6, 8)
    x = torch.randn(4, 8)
    x[0], x[1, 3], x[2, 5] = 0.0, float("nan"), float("inf")
    y = weight.product(x)
    assert y[0].eq(0).all()
    assert not y[1:3].isfinite().any()
    assert y[3].isfinite().all()
    assert weight.product(x[:0]).shape == (0, 6)
    assert int4(6, 8, torch.float32, group=8)[0].product(x[:0]).shape == (0, 6)
