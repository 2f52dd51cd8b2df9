"""Blocks in 8-bit floating point: how far they err, and that the kernel does as the truth."""

import pytest
import torch

from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.reference import kv_fp8 as kv

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import kv_pack_fp8

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
SHAPES = pytest.mark.parametrize(
    "block", [(16, 2, 64), (4, 1, 6), (3, 3, 10)], ids=["even", "one-head", "odd"]
)


def _cache(block: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    """3 layers of 7 blocks; heads differ in size by factors of ten, and one has only zeros."""
    slots, heads, dim = block
    cache = torch.randn(3, 7, 2, slots, heads, dim)
    cache *= 10.0 ** torch.arange(heads).view(heads, 1)
    cache[:, 3, 1, :, 0] = 0.0
    return cache.to(dtype)


def test_a_number_errs_by_a_sixteenth_or_by_little_of_its_heads_largest() -> None:
    cache, blocks = _cache((16, 4, 64), torch.float32), torch.tensor([6, 0, 3])
    packed = kv.pack_blocks_fp8(cache, blocks)
    assert packed.shape == (3, 3, 2 * 4 * (16 * 64 + 4))
    back = torch.zeros_like(cache)
    kv.unpack_blocks_fp8(packed, blocks, back)
    wanted, got = cache[:, blocks], back[:, blocks]
    largest = wanted.abs().amax((3, 5), keepdim=True)
    bound = torch.maximum(wanted.abs() / 16, largest / 448 * 2**-10)
    assert ((got - wanted).abs() <= bound * (1 + 1e-5)).all()
    # Each head by itself: 2.6 % of its numbers in the mean.
    error = (got - wanted).norm(dim=(3, 5)) / wanted.norm(dim=(3, 5)).clamp(min=1e-9)
    assert error.max() < 0.035
    assert back[:, [1, 2, 4, 5]].eq(0).all()


@pytest.mark.slow
@DTYPES
@SHAPES
def test_blocks_are_packed_and_unpacked_as_by_the_truth(
    device: str, block: tuple[int, int, int], dtype: torch.dtype
) -> None:
    cache, blocks = _cache(block, dtype).to(device), torch.tensor([6, 0, 3], device=device)
    packed = kv_pack_fp8.pack_blocks_fp8(cache[1:], blocks)
    truth = kv.pack_blocks_fp8(cache[1:], blocks)
    for got, expected in zip(kv.split_fp8(packed, cache), kv.split_fp8(truth, cache), strict=True):
        assert torch.equal(got.float(), expected.float())
    target, expected = torch.full_like(cache, 9.0), torch.full_like(cache, 9.0)
    kv_pack_fp8.unpack_blocks_fp8(packed, blocks, target[1:])
    kv.unpack_blocks_fp8(truth, blocks, expected[1:])
    unit = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(target, expected, rtol=unit, atol=0)


def test_no_blocks_are_no_bytes(device: str) -> None:
    cache = torch.zeros(2, 3, 2, 4, 1, 8, device=device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    assert kv_pack_fp8.pack_blocks_fp8(cache, none).numel() == 0


def test_what_cannot_be_packed_is_refused_with_the_values(device: str) -> None:
    blocks = torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(UnsupportedByKernel, match="got 256 and 128"):
        kv_pack_fp8.pack_blocks_fp8(torch.zeros(1, 1, 2, 256, 1, 128, device=device), blocks)
    cache = torch.zeros(1, 1, 2, 4, 1, 8, device=device)
    packed = torch.zeros(1, 1, 7, dtype=torch.uint8, device=device)
    with pytest.raises(UnsupportedByKernel, match=r"packed must be a contiguous \[1, 1, 72\]"):
        kv_pack_fp8.unpack_blocks_fp8(packed, blocks, cache)
