"""8-bit floating-point numbers with scales: how far they err, and that kernels round as the truth
does."""

import pytest
import torch

from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.reference import fp8
from lengthwise_kernels.reference.fp8 import Fp8Rows

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
SHAPES = pytest.mark.parametrize("shape", [(1, 8), (3, 65), (5, 896), (0, 32)], ids=str)

# A GPU's compiler may join other products and sums than in the kernels that were fused.
FUSED_SHARE = 0.02 if torch.cuda.is_available() else 0.0


def _dequantised(rows: Fp8Rows) -> torch.Tensor:
    return rows.values.float() * rows.scales.unsqueeze(1)


def _same_rows(got: Fp8Rows, expected: Fp8Rows, share: float) -> None:
    """Equal, but for this share of numbers, which may be neighbours: 2^-3 apart at most."""
    assert got.values.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(got.scales, expected.scales, atol=0, rtol=2**-7 if share else 0)
    mine, truth = got.values.float(), expected.values.float()
    assert (mine != truth).sum() <= share * truth.numel()
    torch.testing.assert_close(mine, truth, atol=2**-9, rtol=2**-3)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e30], ids=str)
def test_numbers_err_by_a_sixteenth_or_by_half_the_smallest_step(size: float) -> None:
    x = size * torch.randn(50, 300) * torch.randn(50, 300).exp()
    rows = fp8.quantise_rows(x)
    bound = torch.maximum(x.abs() / 16, rows.scales.unsqueeze(1) * 2**-10)
    assert ((_dequantised(rows) - x).abs() <= bound * (1 + 1e-5)).all()
    # The largest number of each row is the largest there is.
    assert rows.values.float().abs().amax(1).eq(448).all()


def test_zeros_stay_zeros_and_what_is_not_finite_spoils_its_own_row_alone() -> None:
    x = torch.randn(4, 8)
    x[0], x[1, 3], x[2, 5] = 0.0, float("nan"), float("inf")
    weight = fp8.quantise_rows(torch.randn(6, 8))
    y = fp8.scaled_linear(fp8.quantise_rows(x), weight, None, torch.float32)
    assert y[0].eq(0).all()
    assert y[1:3].isnan().all()
    assert y[3].isfinite().all()


def test_products_err_by_a_few_percent() -> None:
    """Factors err by at most 2^-4 and, spread evenly over a step, by 2^-4 / sqrt(3) / 1.4 = 2.6 %
    in the mean; two of them by 3.7 %, and a sum of independent errors by no more."""
    x, weight, bias = torch.randn(64, 512), torch.randn(96, 512), 10 * torch.randn(96)
    got = fp8.scaled_linear(fp8.quantise_rows(x), fp8.quantise_rows(weight), bias, torch.float32)
    exact = x @ weight.T
    assert (got - bias - exact).norm() < 0.045 * exact.norm()
    assert (got - bias - exact).norm() > 0.01 * exact.norm()


def test_a_row_does_not_depend_on_its_batch() -> None:
    x, weight = torch.randn(7, 64), fp8.quantise_rows(torch.randn(8, 64))
    whole, alone = fp8.quantise_rows(x), fp8.quantise_rows(x[3:4])
    assert torch.equal(whole.values[3].float(), alone.values[0].float())
    whole_product = fp8.scaled_linear(whole, weight, None, torch.float32)
    assert torch.equal(whole_product[3:4], fp8.scaled_linear(alone, weight, None, torch.float32))


@DTYPES
@SHAPES
def test_quantised_rows_are_those_of_the_truth(
    device: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    from lengthwise_kernels.gpu import quantise_rows

    x = (torch.randn(shape) * torch.randn(shape).exp()).to(device, dtype)
    x[:1] = 0.0
    _same_rows(quantise_rows.quantise_rows(x), fp8.quantise_rows(x), share=0)


def test_every_number_between_two_neighbours_goes_to_the_nearer_one(device: str) -> None:
    from lengthwise_kernels.gpu import quantise_rows

    neighbours = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    low, high = neighbours[:-1], neighbours[1:]
    places = [0.0, 0.49, 0.5, 0.51, 1.0]
    x = torch.cat([low + place * (high - low) for place in places]).unsqueeze(0)
    x = torch.cat((x, -x)).to(device)
    _same_rows(quantise_rows.quantise_rows(x), fp8.quantise_rows(x), share=0)


def test_what_is_not_finite_spoils_its_row_on_a_gpu_too(device: str) -> None:
    from lengthwise_kernels.gpu import quantise_rows

    if device == "cpu":
        pytest.skip("Triton's interpreter converts what is not a number to one")
    x = torch.randn(3, 8, device=device)
    x[0, 2], x[1, 5] = float("nan"), float("inf")
    rows = _dequantised(quantise_rows.quantise_rows(x))
    assert rows[:2].isnan().any(1).all()
    assert rows[2].isfinite().all()


@DTYPES
@SHAPES
def test_normalising_and_quantising_in_one_pass_is_doing_one_after_the_other(
    device: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    from lengthwise_kernels.gpu import quantise_rows, rms_norm

    x, residual = torch.randn(2, *shape).to(device, dtype)
    weight = torch.randn(shape[1]).to(device, dtype)
    got, total = quantise_rows.add_rms_norm_fp8(x, residual, weight, 1e-6)
    normed, expected_total = rms_norm.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(total, expected_total)
    _same_rows(got, quantise_rows.quantise_rows(normed), FUSED_SHARE)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 2), (3, 66), (4, 2050), (0, 8)], ids=str)
def test_gating_and_quantising_in_one_pass_is_doing_one_after_the_other(
    device: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    from lengthwise_kernels.gpu import quantise_rows, silu_mul

    gate_up = (4 * torch.randn(shape)).to(device, dtype)
    expected = quantise_rows.quantise_rows(silu_mul.silu_mul(gate_up))
    _same_rows(quantise_rows.silu_mul_fp8(gate_up), expected, FUSED_SHARE)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    "sizes",
    [(1, 16, 16), (5, 70, 33), (130, 300, 140), (0, 16, 16)],
    ids=["smallest", "odd", "several-tiles", "no-rows"],
)
def test_products_are_those_of_the_truth(
    device: str, sizes: tuple[int, int, int], bias: bool, dtype: torch.dtype
) -> None:
    from lengthwise_kernels.gpu import scaled_linear

    rows, inputs, outputs = sizes
    x = fp8.quantise_rows(torch.randn(rows, inputs, device=device))
    weight = fp8.quantise_rows(torch.randn(outputs, inputs, device=device))
    added = torch.randn(outputs).to(device, dtype) if bias else None
    expected = fp8.scaled_linear(x, weight, added, dtype)
    tolerance = max(1e-5, 2 * torch.finfo(dtype).eps)
    for product in (scaled_linear.scaled_linear, scaled_linear.triton_linear):
        got = product(x, weight, added, dtype)
        torch.testing.assert_close(got, expected, atol=8 * tolerance, rtol=tolerance)


def test_what_cannot_be_quantised_is_refused_with_the_values(device: str) -> None:
    from lengthwise_kernels.gpu import quantise_rows, scaled_linear

    with pytest.raises(UnsupportedByKernel, match=r"1..32768 numbers, got 40000"):
        quantise_rows.quantise_rows(torch.zeros(1, 40_000, device=device))
    with pytest.raises(UnsupportedByKernel, match="two halves, got 7"):
        quantise_rows.silu_mul_fp8(torch.zeros(1, 7, device=device))
    rows = fp8.quantise_rows(torch.zeros(2, 16, device=device))
    other = fp8.quantise_rows(torch.zeros(3, 32, device=device))
    with pytest.raises(UnsupportedByKernel, match=r"weight must be a .*\[any, 16\].*got \[3, 32\]"):
        scaled_linear.scaled_linear(rows, other, None, torch.float32)
    bias = torch.zeros(3, device=device)
    with pytest.raises(UnsupportedByKernel, match=r"bias must be a contiguous \[2\]"):
        scaled_linear.scaled_linear(rows, rows, bias, torch.float32)
