"""Triton's products with weights of 4 bits: what they are, whom a row knows, and that workers with
a GPU compute checkpoints of GPTQ, AWQ and compressed-tensors by them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine.integer_checkpoints import Format, store
from engine.next_token import load, logprobs

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_engine.models.integers import linear
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.gpu.int4_linear import Int4Tiles
from lengthwise_kernels.int4 import int4_tiles_bytes

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def tiles(
    num_outputs: int, num_inputs: int, group: int, dtype: torch.dtype, device: str
) -> tuple[Int4Tiles, torch.Tensor]:
    """And the numbers that they stand for."""
    draw = torch.Generator().manual_seed(num_inputs)
    codes = torch.randint(0, 16, (num_outputs, num_inputs), generator=draw, dtype=torch.uint8)
    shape = (num_outputs, -(-num_inputs // group))
    scales = (torch.rand(shape, generator=draw) + 0.1).to(dtype).float()
    offsets = torch.randn(shape, generator=draw).to(dtype).float()
    found = Int4Tiles.of(
        *(each.to(device) for each in (codes, scales, offsets)), group_size=group, dtype=dtype
    )
    groups = torch.arange(num_inputs) // group
    return found, (codes.double() - 8) * scales[:, groups] + offsets[:, groups]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "group"),
    [(64, 128, 32), (37, 160, 64), (70, 96, 96), (16, 100, 100), (130, 33, 128)],
)
@pytest.mark.usefixtures("exact_products")
def test_products_are_those_of_the_numbers(
    num_outputs: int, num_inputs: int, group: int, dtype: torch.dtype, device: str
) -> None:
    """Groups of one, two and three steps, and of all inputs; ends within tiles and steps."""
    weight, full = tiles(num_outputs, num_inputs, group, dtype, device)
    assert weight.num_bytes == int4_tiles_bytes(num_inputs, num_outputs, group, dtype.itemsize)
    for rows in (0, 1, 18):
        x = torch.randn(rows, num_inputs, dtype=dtype)
        got = weight.product(x.to(device)).cpu()
        exact = x.double() @ full.T
        assert got.dtype == dtype
        assert (got.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()


@pytest.mark.usefixtures("exact_products")
def test_a_row_is_the_same_beside_any_number_of_others(device: str) -> None:
    """More rows than a tile has, and parts that begin within one."""
    weight = tiles(20, 96, 32, torch.float32, device)[0].in_any_batch()
    x = torch.randn(70, 96).to(device)
    whole = weight.product(x)
    for begin, end in [(0, 1), (0, 16), (0, 17), (0, 65), (1, 70), (63, 66), (69, 70)]:
        assert torch.equal(weight.product(x[begin:end]), whole[begin:end])


def test_inputs_of_another_type_or_size_are_refused(device: str) -> None:
    weight, _ = tiles(16, 64, 32, torch.float16, device)
    for x in (torch.randn(2, 64), torch.randn(2, 65, dtype=torch.float16)):
        with pytest.raises(UnsupportedByKernel, match=r"int4_linear: x must be a contiguous"):
            weight.product(x.to(device))
    with pytest.raises(ValueError, match="groups of 48 inputs, expected a multiple of 32"):
        tiles(16, 96, 48, torch.float16, device)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        Format("gptq"),
        Format("gptq", act_order=True),
        Format("gptq", bits=8),
        Format("awq", group=64),
        Format("packed", symmetric=True),
    ],
    ids=lambda how: f"{how.kind}-{how.bits}{'-order' * how.act_order}",
)
def test_logits_are_those_of_a_cpu(
    how: Format,
    device: str,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device != "cpu":
        pytest.skip("tests/gpu/test_quantisation.py does so on the GPU")
    folder = Path(shutil.copytree(make_checkpoint("llama-biases"), tmp_path / "model"))
    store(folder, how)
    expected = logprobs(load(folder, dtype=torch.float32), 9)
    products = []

    def pack(*args: torch.Tensor, group_size: int, dtype: torch.dtype) -> Int4Tiles:
        products.append(Int4Tiles.of(*args, group_size=group_size, dtype=dtype))
        return products[-1]

    monkeypatch.setattr(linear, "pack_int4", pack)
    monkeypatch.setattr(linear, "multiplies_int8", lambda: False)
    got = logprobs(load(folder, dtype=torch.float32), 9)
    assert len(products) == 12 * how.bits // 4
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
