"""Elementwise operations against their formulas."""

import pytest
import torch

from lengthwise_kernels.dispatch import kv_rows, rms_norm, rotate, silu_mul, store_kv

DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],
    ids=["float32", "bfloat16", "float16"],
)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 8), (7, 65), (3, 4, 32)], ids=str)
def test_rms_norm_divides_by_the_root_mean_square(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    x = (3 * torch.randn(shape)).to(dtype)
    weight = torch.randn(shape[-1]).to(dtype)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    got = rms_norm(x, weight, 1e-5)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


@DTYPES
def test_silu_mul_gates_the_second_half(dtype: torch.dtype, tolerance: float) -> None:
    gate, up = torch.randn(2, 5, 33).to(dtype)
    expected = gate.double() * torch.sigmoid(gate.double()) * up.double()
    got = silu_mul(torch.cat((gate, up), dim=-1))
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


def test_rotation_turns_each_pair_as_a_complex_number() -> None:
    x, angles = torch.randn(6, 3, 16), 10 * torch.randn(6, 8)
    turned = torch.complex(x[..., :8], x[..., 8:]) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    got = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(got, torch.cat((turned.real, turned.imag), dim=-1))


def test_stored_keys_and_values_lie_in_their_slots_and_nowhere_else() -> None:
    layer = torch.full((5, 2, 4, 2, 3), 9.0)
    keys, values = 1 + torch.rand(2, 3, 2, 3)
    positions, blocks = torch.tensor([2, 3, 4]), torch.tensor([3, 3, 1])
    begun = torch.tensor([1])
    store_kv(layer, keys, values, kv_rows(positions, blocks, block_size=4), begun)
    expected = torch.full_like(layer, 9.0)
    expected[1] = 0.0
    for index, (block, slot) in enumerate([(3, 2), (3, 3), (1, 0)]):
        expected[block, 0, slot], expected[block, 1, slot] = keys[index], values[index]
    torch.testing.assert_close(layer, expected, atol=0, rtol=0)
