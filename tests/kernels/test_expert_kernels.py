"""Mixtures of experts on a GPU: rows sorted by expert, products in one launch, and their sum."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.reference import fp8, routing
from lengthwise_kernels.reference.fp8 import Fp8Rows
from lengthwise_kernels.reference.routing import Routes

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu.experts import combine, grouped_linear
from lengthwise_kernels.gpu.experts import routing as gpu_routing
from lengthwise_kernels.gpu.scaled_linear import INVARIANT_ROWS

# (rows, experts, chosen of them)
SIZES = pytest.mark.parametrize(
    "sizes", [(1, 4, 2), (9, 5, 1), (40, 7, 3), (3, 130, 8), (0, 6, 2)], ids=str
)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3}


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _routes(sizes: tuple[int, int, int], device: str) -> Routes:
    rows, experts, chosen = sizes
    return routing.route(_normal(rows, experts).to(device), chosen, is_normalised=True)


def _places(routes: Routes) -> list[int]:
    return [*map(int, routes.order)]


@SIZES
@pytest.mark.parametrize("is_normalised", [True, False])
def test_rows_go_where_the_truth_sends_them(
    device: str, sizes: tuple[int, int, int], is_normalised: bool
) -> None:
    rows, experts, chosen = sizes
    logits = 3 * _normal(rows, experts).to(device)
    expected = routing.route(logits, chosen, is_normalised=is_normalised)
    got = gpu_routing.route(logits, chosen, is_normalised=is_normalised)
    torch.testing.assert_close(got.shares, expected.shares)
    assert _places(got) == _places(expected)
    assert got.begins.tolist() == expected.begins.tolist()


def test_places_of_an_expert_stay_in_their_order_over_several_blocks(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_routing, "_BLOCK", 16)
    logits = _normal(50, 3).to(device)
    got = gpu_routing.route(logits, 2, is_normalised=True)
    assert _places(got) == _places(routing.route(logits, 2, is_normalised=True))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, interpreted
def test_rows_without_a_number_go_to_experts_that_there_are(device: str) -> None:
    """And take no other row along."""
    logits = _normal(4, 6).to(device)
    logits[1] = float("nan")
    got = gpu_routing.route(logits, 3, is_normalised=True)
    assert got.begins[-1].item() == 12
    assert sorted(_places(got)) == [*range(12)]
    assert got.shares[1].isnan().all()
    expected = routing.route(logits[[0, 2, 3]], 3, is_normalised=True)
    torch.testing.assert_close(got.shares[[0, 2, 3]], expected.shares)


@pytest.mark.slow
@SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_products_are_those_of_the_truth(
    device: str, sizes: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """For outputs and inputs that fill no tile."""
    rows, experts, chosen = sizes
    routes = _routes(sizes, device)
    weight = (0.2 * _normal(experts, 150, 70, seed=1)).to(device, dtype)
    tolerance: dict[str, Any] = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    for name, count in (("gathered_linear", rows), ("scattered_linear", rows * chosen)):
        x = _normal(count, 70, seed=2).to(device, dtype)
        expected = getattr(routing, name)(x, weight, routes, dtype)
        got = getattr(grouped_linear, name)(x, weight, routes, dtype)
        torch.testing.assert_close(got, expected, **tolerance)


@pytest.mark.slow
def test_products_of_8_bit_numbers_are_those_of_the_truth(device: str) -> None:
    sizes = (20, 5, 2)
    routes = _routes(sizes, device)
    matrices = fp8.quantise_rows(_normal(5 * 150, 70, seed=1).to(device))
    weight = Fp8Rows(values=matrices.values.view(5, 150, 70), scales=matrices.scales.view(5, 150))
    for name, count in (("gathered_linear", 20), ("scattered_linear", 40)):
        x = fp8.quantise_rows(_normal(count, 70, seed=2).to(device))
        expected = getattr(routing, name)(x, weight, routes, torch.float32)
        got = getattr(grouped_linear, name)(x, weight, routes, torch.float32)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_ranks_with_some_experts_each_find_parts_of_the_sum(device: str) -> None:
    """What is computed elsewhere counts as zero here, whatever the memory held."""
    routes = _routes((21, 6, 3), device)
    x, weight = _normal(63, 32, seed=2).to(device), _normal(6, 40, 32, seed=1).to(device)
    whole = combine.combine(
        grouped_linear.scattered_linear(x, weight, routes, torch.float32), routes
    )
    parts = []
    for own in (range(2), range(2, 6)):
        share = routes.of(own)
        part = grouped_linear.scattered_linear(
            x, weight[own.start : own.stop].contiguous(), share, torch.float32
        )
        parts.append(combine.combine(part, share))
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [7, 1500])
def test_what_experts_found_is_added_as_the_truth_adds_it(
    device: str, dtype: torch.dtype, size: int
) -> None:
    routes = _routes((5, 9, 4), device)
    partials = _normal(20, size).to(device, dtype)
    expected = routing.combine(partials, routes)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        combine.combine(partials, routes), expected, atol=4 * eps, rtol=2 * eps
    )


@pytest.mark.parametrize("counts", [[64, 64], [65, 1, 0, 62], [1] * 128, [0, 0, 3], [200]], ids=str)
def test_there_are_never_more_tiles_than_the_grid_has(counts: Sequence[int]) -> None:
    tiles = sum(-(-count // INVARIANT_ROWS) for count in counts)
    assert tiles <= grouped_linear.most_tiles(sum(counts), len(counts))


def test_what_no_kernel_can_route_is_refused_with_the_values(device: str) -> None:
    with pytest.raises(UnsupportedByKernel, match="at most 1024 experts, got 3 of 2"):
        gpu_routing.route(_normal(1, 2).to(device), 3, is_normalised=True)
    routes = _routes((4, 5, 2), device)
    weight, x = _normal(5, 8, 16).to(device), _normal(4, 16).to(device)
    with pytest.raises(UnsupportedByKernel, match=r"x must be a contiguous \[8, any\]"):
        grouped_linear.scattered_linear(x, weight, routes, torch.float32)
    with pytest.raises(UnsupportedByKernel, match=r"begins must be a contiguous \[5\]"):
        grouped_linear.gathered_linear(x, weight[1:], routes, torch.float32)
