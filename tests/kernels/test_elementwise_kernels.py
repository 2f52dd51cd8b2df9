"""Triton kernels of the elementwise operations against their truth in `reference`.

Kernels round where the truth rounds and only take sums in another order, so half precision may
differ by one unit in the last place for every rounding on the way. Triton's interpreter needs all
of that for bfloat16, because it cuts where a GPU rounds.
"""

import pytest
import torch

from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.reference import kv, layers
from lengthwise_kernels.reference.kv import HeadNorms

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import kv_clear, kv_pack, kv_store, rms_norm, silu_mul

# One unit in the last place, relative to the value.
DTYPES = pytest.mark.parametrize(
    ("dtype", "unit"),
    [(torch.float32, 2**-21), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)],
    ids=["float32", "bfloat16", "float16"],
)
SHAPES = pytest.mark.parametrize("shape", [(1, 8), (3, 65), (2, 3, 896), (0, 32)], ids=str)


def _same(got: torch.Tensor, expected: torch.Tensor, tolerance: float, size: float = 1.0) -> None:
    """Equal to `tolerance` of the value, or of `size` where values cancelled."""
    torch.testing.assert_close(got, expected, atol=tolerance * size, rtol=tolerance)


@DTYPES
@SHAPES
def test_rms_norm_is_its_truth(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, unit: float
) -> None:
    x = (3 * torch.randn(shape)).to(device, dtype)
    weight = torch.randn(shape[-1]).to(device, dtype)
    _same(rms_norm.rms_norm(x, weight, 1e-5), layers.rms_norm(x, weight, 1e-5), 2 * unit)


@DTYPES
@SHAPES
def test_the_residual_is_added_before_the_norm(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, unit: float
) -> None:
    x, residual = torch.randn(2, *shape).to(device, dtype)
    weight = torch.randn(shape[-1]).to(device, dtype)
    got, total = rms_norm.add_rms_norm(x, residual, weight, 1e-6)
    expected, expected_total = layers.add_rms_norm(x, residual, weight, 1e-6)
    _same(total, expected_total, unit)
    _same(got, expected, 3 * unit)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 2), (3, 66), (2, 2, 2050), (0, 8)], ids=str)
def test_silu_mul_is_its_truth(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, unit: float
) -> None:
    gate_up = (4 * torch.randn(shape)).to(device, dtype)
    _same(silu_mul.silu_mul(gate_up), layers.silu_mul(gate_up), 2 * unit)


@DTYPES
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "head-norms"])
@pytest.mark.parametrize(
    "heads",
    [(4, 2, 64), (14, 2, 8), (1, 1, 2), (9, 3, 80)],
    ids=["even", "many-heads", "smallest", "odd-heads-and-size"],
)
def test_rotated_heads_and_the_cache_are_those_of_the_truth(
    device: str,
    heads: tuple[int, int, int],
    normed: bool,
    dtype: torch.dtype,
    unit: float,
) -> None:
    num_heads, num_kv_heads, head_dim = heads
    x = torch.randn(5, num_heads + 2 * num_kv_heads, head_dim).to(device, dtype)
    angles = 10 * torch.randn(5, head_dim // 2)
    cos, sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
    query, key = torch.randn(2, head_dim).to(device, dtype)
    norms = HeadNorms(query=query, key=key, eps=1e-6) if normed else None
    layer = torch.full((6, 2, 4, num_kv_heads, head_dim), 9.0).to(device, dtype)
    positions = torch.tensor([2, 3, 4, 15, 0], device=device)
    rows = kv.kv_rows(positions, torch.tensor([3, 3, 1, 5, 0], device=device), 4)
    expected_layer = layer.clone()
    expected = kv.rotate_and_store(x, cos, sin, norms, expected_layer, rows)
    got = kv_store.rotate_and_store(x, cos, sin, norms, layer, rows)
    _same(got, expected, 4 * unit, size=4.0)
    _same(layer, expected_layer, 4 * unit, size=4.0)
    untouched = expected_layer.eq(9.0)
    assert torch.equal(layer[untouched], expected_layer[untouched])


@DTYPES
@pytest.mark.parametrize("inner", [(2, 4, 1, 6), (2, 16, 3, 64)], ids=str)
def test_packed_blocks_are_copies_and_come_back(
    device: str, inner: tuple[int, ...], dtype: torch.dtype, unit: float
) -> None:
    cache = torch.randn(3, 7, *inner).to(device, dtype)
    blocks = torch.tensor([6, 0, 3], device=device)
    packed = kv_pack.pack_blocks(cache[1:], blocks)
    assert torch.equal(packed, kv.pack_blocks(cache[1:], blocks))
    target, expected = torch.zeros_like(cache), torch.zeros_like(cache)
    kv_pack.unpack_blocks(packed, blocks, target[1:])
    kv.unpack_blocks(packed, blocks, expected[1:])
    assert torch.equal(target, expected)


def test_cleared_blocks_are_zero_and_padding_clears_none(device: str) -> None:
    cache = torch.randn(3, 7, 2, 16, 3, 80).to(device)
    expected = cache.clone()
    blocks = torch.tensor([5, -1, 2, -1], device=device)
    kv_clear.clear_blocks(cache, blocks)
    kv.clear_blocks(expected, blocks)
    assert torch.equal(cache, expected)
    assert cache[:, [2, 5]].eq(0).all()


def test_a_token_of_padding_is_stored_nowhere(device: str) -> None:
    heads, angles = torch.randn(3, 4, 16, device=device), torch.ones(3, 8, device=device)
    layer, expected = torch.zeros(2, 4, 2, 8, 1, 16, device=device)
    rows = kv.kv_rows(torch.tensor([1, 2]), torch.tensor([3, 0]), 8)
    padded = torch.full((2, 3), -1)
    padded[:, [0, 2]] = rows
    kv_store.rotate_and_store(heads, angles, angles, None, layer, padded.to(device))
    kept = [0, 2]
    kv.rotate_and_store(heads[kept], angles[kept], angles[kept], None, expected, rows.to(device))
    torch.testing.assert_close(layer, expected)


def test_nothing_is_packed_from_no_blocks(device: str) -> None:
    cache = torch.zeros(2, 3, 4, device=device)
    assert kv_pack.pack_blocks(cache, torch.zeros(0, dtype=torch.int64, device=device)).numel() == 0


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (
            torch.zeros(2, 8, dtype=torch.float64),
            torch.zeros(8),
            r"float32 or .*got \[2, 8\] of float64",
        ),
        (torch.zeros(2, 8, device="meta"), torch.zeros(8), r"\[2, 8\] of float32 on meta"),
        (torch.zeros(8, 2).T, torch.zeros(8), r"with strides \[1, 2\]"),
        (torch.zeros(2, 8), torch.zeros(7), r"weight must be a contiguous \[8\] .*got \[7\]"),
        (torch.zeros(1, 65_536), torch.zeros(65_536), "1..32768, got 65536"),
    ],
    ids=["dtype", "device", "strides", "shape", "size"],
)
def test_what_a_kernel_cannot_compute_is_refused_with_the_values(
    device: str, x: torch.Tensor, weight: torch.Tensor, message: str
) -> None:
    if x.device.type == "cpu":
        x = x.to(device)
    with pytest.raises(UnsupportedByKernel, match=message):
        rms_norm.rms_norm(x, weight.to(device), 1e-6)


def test_odd_halves_are_refused(device: str) -> None:
    with pytest.raises(UnsupportedByKernel, match="got 7 numbers"):
        silu_mul.silu_mul(torch.zeros(2, 7, device=device))
