"""Packed weights: the results of plain `linear` to the bit, for every number of rows."""

import pytest
import torch
from torch.nn import functional

from lengthwise_kernels.packed import linear, multiplies_bfloat16, pack, packs

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for bfloat16"
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize(
    "out_in",
    [(1152, 896), (896, 896), (9728, 896), (896, 4864), (33, 7), (1, 1), (100, 96)],
    ids=str,
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_and_plain_weights_give_the_same_bits(
    out_in: tuple[int, int], with_bias: bool
) -> None:
    weight, bias = random(*out_in), random(out_in[0]) if with_bias else None
    packed = pack(weight)
    for rows in (0, 1, 2, 3, 7, 8, 31, 33, 64):
        x = random(rows, out_in[1])
        assert torch.equal(linear(x, packed, bias), functional.linear(x, weight, bias)), rows


def test_a_row_is_the_same_whatever_rows_lie_beside_it() -> None:
    packed, x = pack(random(1152, 896)), random(160, 896)
    all_rows = linear(x, packed, None)
    for count in (1, 2, 5, 16, 31, 32, 33, 64, 100):
        assert torch.equal(linear(x[:count], packed, None), all_rows[:count]), count
        assert torch.equal(linear(x[-count:], packed, None), all_rows[-count:]), count


def test_rows_that_do_not_lie_one_after_the_other_are_read_where_they_lie() -> None:
    weight, wide = random(64, 96), random(8, 192)
    packed = pack(weight)
    for x in (wide[:, ::2], wide[:, :96], wide[::2, 96:]):
        assert torch.equal(linear(x, packed, None), functional.linear(x, weight))


def test_what_is_not_finite_spreads_as_it_does_without_packing() -> None:
    weight, x = random(64, 96), random(4, 96)
    x[0, 0], x[1, 1], x[2, 2] = float("nan"), float("inf"), float("-inf")
    mine, plain = linear(x, pack(weight), None), functional.linear(x, weight)
    assert torch.equal(mine.isnan(), plain.isnan())
    assert torch.equal(mine[3], plain[3])
    assert mine.isfinite().all(1).tolist() == plain.isfinite().all(1).tolist()


def test_a_packed_weight_can_be_read_back() -> None:
    weight = random(100, 96)
    assert torch.equal(pack(weight).to_dense(), weight)


def test_a_share_of_the_head_may_be_empty() -> None:
    """The last of many ranks over a small vocabulary."""
    assert linear(random(3, 64), pack(random(0, 64)), None).shape == (3, 0)


def test_only_bfloat16_on_a_cpu_is_packed() -> None:
    assert packs(CPU, torch.bfloat16)
    for device, dtype in (
        (CPU, torch.float32),
        (CPU, torch.float16),
        (torch.device("cuda"), torch.bfloat16),
    ):
        assert not packs(device, dtype)
