"""Triton attention against the definition, one query at a time.

Tolerances: scores and sums are float32, so float32 has only another order of sums; in half
precision the weights (at most 1) and the result are rounded once each, and values are of size 1.
Triton's interpreter multiplies bfloat16 matrices as bit patterns (triton-lang/triton#11584), so
they wait for a GPU.
"""

import dataclasses

import pytest
import torch
from harness.paged_attention import Mix, paged_step

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.gpu.attention import check_attention, decode_rows, plan_attention
from lengthwise_kernels.gpu.decode_attention import decode_attention
from lengthwise_kernels.gpu.shared_prefix_attention import (
    PrefixGroups,
    cut_groups,
    shared_prefix_attention,
)
from lengthwise_kernels.gpu.split_decode_attention import split_decode_attention

MIXES = {
    "one-token": [(1, 0)],
    "whole-prompt": [(33, 0)],
    "chunk-after-history": [(20, 145)],
    "decode-rows-of-mixed-lengths": [(1, 0), (1, 15), (1, 16), (1, 190), (1, 700)],
    "everything-at-once": [(1, 31), (40, 0), (1, 200), (5, 100), (2, 0), (70, 90)],
}
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("window", [None, 1, 24, 150], ids=lambda window: f"window-{window}")
def test_every_query_sees_exactly_its_past(device: str, mix: Mix, window: int | None) -> None:
    _check(mix, window, (6, 2), 24, torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("heads", "head_dim"),
    [((2, 2), 64), ((7, 1), 80), ((4, 2), 128), ((2, 1), 256)],
    ids=["mha-64", "mqa-80", "gqa-128", "gqa-256"],
)
def test_head_sizes_and_types(
    device: str, heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> None:
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter does not multiply bfloat16 matrices")
    _check([(1, 200), (37, 90)], None, heads, head_dim, dtype, device)


@pytest.mark.parametrize("block_size", [1, 8, 100], ids=lambda size: f"blocks-of-{size}")
def test_blocks_may_have_any_size(device: str, block_size: int) -> None:
    _check([(1, 120), (20, 80)], None, (2, 1), 16, torch.float32, device, block_size)


@pytest.mark.parametrize("num_programs", [1, 2, 3, 5, 13, 64])
@pytest.mark.parametrize("window", [None, 100], ids=["whole", "window"])
def test_decode_does_not_depend_on_how_the_work_is_shared_out(
    device: str, num_programs: int, window: int | None
) -> None:
    """From one program for all rows to more programs than there are tiles."""
    mix = [(1, 5), (1, 900), (1, 0), (1, 511), (1, 512)]
    step = paged_step(
        mix, heads=(3, 3), head_dim=16, dtype=torch.float32, window=window, device=device
    )
    singles = [(place, start, step.batch.block_ids[place]) for place, (_, start) in enumerate(mix)]
    rows = decode_rows(singles, window, step.batch.block_size, step.spec)
    out = torch.full_like(step.queries, float("nan"))
    lse = torch.full(out.shape[:2], float("nan"), device=device)
    rows = dataclasses.replace(rows, num_programs=num_programs)
    decode_attention(step.queries, step.layer, rows, step.scale, out, lse)
    torch.testing.assert_close(out, step.expected, atol=4e-6, rtol=4e-6)
    torch.testing.assert_close(lse, step.expected_lse, atol=4e-6, rtol=4e-6)


@pytest.mark.parametrize("splits", [1, 3, 9])
def test_a_fixed_number_of_parts_gives_the_same(device: str, splits: int) -> None:
    mix = [(1, 5), (1, 700), (1, 0)]
    step = paged_step(mix, heads=(6, 3), head_dim=24, dtype=torch.float32, device=device)
    singles = [(place, start, step.batch.block_ids[place]) for place, (_, start) in enumerate(mix)]
    rows = decode_rows(singles, None, step.batch.block_size, step.spec)
    out = torch.full_like(step.queries, float("nan"))
    lse = torch.full(out.shape[:2], float("nan"), device=device)
    split_decode_attention(step.queries, step.layer, rows, step.scale, out, lse, splits=splits)
    torch.testing.assert_close(out, step.expected, atol=4e-6, rtol=4e-6)
    torch.testing.assert_close(lse, step.expected_lse, atol=4e-6, rtol=4e-6)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("heads", [(2, 2), (14, 2)], ids=["mha", "group-of-seven"])
def test_a_common_prefix_is_joined_with_each_rest(
    device: str, heads: tuple[int, int], splits: int
) -> None:
    """Two groups: one shares 144 keys, the other, in which one row has no rest, 32."""
    prefixes = [144, 144, 144, 32, 32]
    mix = [(1, 150), (1, 144), (1, 260), (1, 31), (1, 40)]
    step = paged_step(
        mix, heads=heads, head_dim=24, dtype=torch.float32, device=device, shared=prefixes
    )
    size = step.batch.block_size
    singles = [(place, start, step.batch.block_ids[place]) for place, (_, start) in enumerate(mix)]
    rests = decode_rows(singles, None, size, step.spec, prefixes=prefixes)
    tables = torch.zeros(2, 144 // size, dtype=torch.int32)
    tables[0] = torch.tensor(step.batch.block_ids[0][: 144 // size])
    tables[1, : 32 // size] = torch.tensor(step.batch.block_ids[3][: 32 // size])
    tiles = cut_groups([(0, 3, 144, 0), (3, 2, 32, 1)], heads[0] // heads[1])
    groups = PrefixGroups(
        tiles=torch.tensor(tiles, dtype=torch.int32, device=device),
        tables=tables.to(device),
        rests=rests,
        splits=splits,
    )
    out = torch.full_like(step.queries, float("nan"))
    shared_prefix_attention(step.queries, step.layer, groups, step.scale, out)
    torch.testing.assert_close(out, step.expected, atol=4e-6, rtol=4e-6)


def test_a_model_whose_heads_are_too_large_is_refused_before_it_runs(device: str) -> None:
    step = paged_step([(1, 5)], heads=(2, 1), head_dim=16, dtype=torch.float32, device=device)
    check_attention(step.spec)
    with pytest.raises(UnsupportedByKernel, match="got heads of 512, 2 for each key head"):
        check_attention(dataclasses.replace(step.spec, head_dim=512))


def test_heads_that_cannot_share_keys_are_refused(device: str) -> None:
    step = paged_step([(1, 5)], heads=(2, 1), head_dim=16, dtype=torch.float32, device=device)
    rows = decode_rows([(0, 5, step.batch.block_ids[0])], None, 16, step.spec)
    queries = torch.zeros(1, 3, 16, device=device)
    layer = torch.zeros(4, 2, 16, 2, 16, device=device)
    with pytest.raises(UnsupportedByKernel, match="3 query heads, 2 key heads"):
        decode_attention(queries, layer, rows, 1.0, torch.empty_like(queries))


def test_a_row_that_sees_no_key_gets_zero(device: str) -> None:
    step = paged_step([(1, 40), (1, 9)], heads=(2, 1), head_dim=16, dtype=torch.float32,
                      device=device)  # fmt: skip
    singles = [(place, start, step.batch.block_ids[place]) for place, start in ((0, 40), (1, -1))]
    rows = decode_rows(singles, None, step.batch.block_size, step.spec)
    out = torch.full_like(step.queries, float("nan"))
    lse = torch.full(out.shape[:2], float("nan"), device=device)
    decode_attention(step.queries, step.layer, rows, step.scale, out, lse)
    torch.testing.assert_close(out[0], step.expected[0], atol=4e-6, rtol=4e-6)
    assert out[1].eq(0).all()
    assert lse[1].eq(-torch.inf).all()


def _check(
    mix: Mix,
    window: int | None,
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    device: str,
    block_size: int = 16,
) -> None:
    step = paged_step(
        mix,
        heads=heads,
        head_dim=head_dim,
        dtype=dtype,
        window=window,
        block_size=block_size,
        device=device,
    )
    got = plan_attention(step.batch, window=window, spec=step.spec).attend(
        step.queries, step.layer, step.scale
    )
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.float(), step.expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )
