"""Elementwise operations against their formulas."""

import pytest
import torch

from lengthwise_kernels.dispatch import (
    HeadNorms,
    add_rms_norm,
    clear_blocks,
    rms_norm,
    rotate_and_store,
    silu_mul,
)
from lengthwise_kernels.reference.kv import kv_rows
from lengthwise_kernels.reference.layers import rotate

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


def test_the_residual_is_added_before_the_norm() -> None:
    x, residual, weight = torch.randn(5, 24), torch.randn(5, 24), torch.randn(24)
    normed, total = add_rms_norm(x, residual, weight, 1e-6)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normed, rms_norm(x + residual, weight, 1e-6))


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


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "head-norms"])
def test_keys_and_values_lie_in_their_slots_and_nowhere_else(normed: bool) -> None:
    layer = torch.full((5, 2, 4, 2, 6), 9.0)
    heads = torch.randn(3, 7, 6)
    angles = torch.rand(3, 3)
    cos, sin = angles.cos(), angles.sin()
    norms = HeadNorms(query=torch.rand(6), key=torch.rand(6), eps=1e-6) if normed else None
    positions, blocks = torch.tensor([2, 3, 4]), torch.tensor([3, 3, 1])
    rows = kv_rows(positions, blocks, block_size=4)
    queries = rotate_and_store(heads, cos, sin, norms, layer, rows)
    parts = list(torch.split(heads, [3, 2, 2], dim=1))
    if norms is not None:
        parts[0] = rms_norm(parts[0], norms.query, norms.eps)
        parts[1] = rms_norm(parts[1], norms.key, norms.eps)
    torch.testing.assert_close(queries, rotate(parts[0], cos, sin))
    keys = rotate(parts[1], cos, sin)
    expected = torch.full_like(layer, 9.0)
    for index, (block, slot) in enumerate([(3, 2), (3, 3), (1, 0)]):
        expected[block, 0, slot], expected[block, 1, slot] = keys[index], parts[2][index]
    torch.testing.assert_close(layer, expected, atol=0, rtol=0)


def test_cleared_blocks_are_zero_in_every_layer() -> None:
    cache = torch.full((2, 4, 3), float("nan"))
    clear_blocks(cache, torch.tensor([3, 0]))
    assert cache[:, [0, 3]].eq(0).all()
    assert cache[:, [1, 2]].isnan().all()
