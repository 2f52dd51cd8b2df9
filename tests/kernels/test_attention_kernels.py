"""Triton attention against the definition, one query at a time.

Tolerances: scores and sums are float32, so float32 has only another order of sums; in half
precision the weights (at most 1) and the result are rounded once each, and values are of size 1.
Triton's interpreter multiplies bfloat16 matrices as bit patterns (triton-lang/triton#11584), so
they wait for a GPU.
"""

import dataclasses

import pytest
import torch
from kernels.paged_attention import Mix, paged_step

pytest.importorskip("triton", reason="Triton is not installed")

from lengthwise_kernels.attention_plan import PaddedShape
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.gpu.attention import prefix_groups
from lengthwise_kernels.gpu.attention.decode import decode_attention
from lengthwise_kernels.gpu.attention.plan import (
    check_attention,
    decode_rows,
    lay_out_attention,
    plan_attention,
)
from lengthwise_kernels.gpu.attention.shared_prefix import (
    PrefixGroups,
    cut_groups,
    shared_prefix_attention,
)
from lengthwise_kernels.staging import to_device

MIXES = {
    "one-token": [(1, 0)],
    "whole-prompt": [(33, 0)],
    "chunk-after-history": [(20, 145)],
    "decode-rows-of-mixed-lengths": [(1, 0), (1, 15), (1, 16), (1, 190), (1, 700)],
    "everything-at-once": [(1, 31), (40, 0), (1, 200), (5, 100), (2, 0), (70, 90)],
}
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("window", [None, 1, 24], ids=lambda window: f"window-{window}")
def test_every_query_sees_exactly_its_past(device: str, mix: Mix, window: int | None) -> None:
    _check(mix, window, (6, 2), 24, torch.float32, device)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("num_programs", [1, 5, 64])
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


@pytest.mark.slow
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(
    ("heads", "dtype"),
    [((2, 2), torch.float16), ((14, 2), torch.float32)],
    ids=["mha", "group-of-seven"],
)
def test_a_common_prefix_is_joined_with_each_rest(
    device: str, heads: tuple[int, int], dtype: torch.dtype, splits: int
) -> None:
    """Two groups: one shares 144 keys, the other, in which one row has no rest, 32. Of float16 they
    end within a tile, of float32 with one."""
    prefixes = [144, 144, 144, 32, 32]
    mix = [(1, 150), (1, 144), (1, 260), (1, 31), (1, 40)]
    step = paged_step(mix, heads=heads, head_dim=24, dtype=dtype, device=device, shared=prefixes)
    size = step.batch.block_size
    singles = [(place, start, step.batch.block_ids[place]) for place, (_, start) in enumerate(mix)]
    rests = decode_rows(singles, None, size, step.spec, prefixes=prefixes)
    starts = rests.table_starts.tolist()
    runs = [(0, 3, 144, starts[0]), (3, 2, 32, starts[3])]
    tiles = cut_groups(runs, heads[0] // heads[1])
    groups = PrefixGroups(
        tiles=torch.tensor(tiles, dtype=torch.int32, device=device),
        rests=rests,
        splits=splits,
    )
    out = torch.full_like(step.queries, float("nan"))
    shared_prefix_attention(step.queries, step.layer, groups, step.scale, out)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.float(), step.expected, atol=tolerance, rtol=tolerance)


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


SHARING = [(1, 300), (1, 9), (1, 420), (1, 270), (1, 600), (1, 290)]
SHARED = [256, 0, 288, 256, 288, 256]


@pytest.mark.slow
@pytest.mark.parametrize(
    "padded_to",
    [None, PaddedShape(tokens=16, sequences=16, rows=16)],
    ids=["as-it-is", "padded"],
)
def test_a_plan_finds_the_prefixes_that_pay(
    device: str, padded_to: PaddedShape | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups and a row of its own, in any order; padding sees nothing."""
    monkeypatch.setattr(prefix_groups, "SECOND_PASS_BYTES", 0)
    step = paged_step(
        SHARING, heads=(4, 2), head_dim=16, dtype=torch.float32, device=device, shared=SHARED
    )
    padding = 0 if padded_to is None else padded_to.tokens - len(SHARING)
    layout = lay_out_attention(
        step.batch, windows=(None, 40), sampled=None, spec=step.spec, padded_to=padded_to
    )
    assert "prefix.tiles" in layout.arrays
    plans = layout.form.bind(to_device(layout.arrays, step.spec.device)).plans
    queries = torch.cat((step.queries, torch.full((padding, 4, 16), torch.nan, device=device)))
    got = plans[None].attend(queries, step.layer, step.scale)
    torch.testing.assert_close(got[: len(SHARING)], step.expected, atol=4e-6, rtol=4e-6)
    assert got[len(SHARING) :].eq(0).all()
    windowed = plan_attention(step.batch, window=40, spec=step.spec)
    expected = windowed.attend(step.queries, step.layer, step.scale)
    got = plans[40].attend(queries, step.layer, step.scale)[: len(SHARING)]
    torch.testing.assert_close(got, expected, atol=4e-6, rtol=4e-6)


@pytest.mark.parametrize(
    ("tables", "positions", "groups"),
    [
        ([[*range(40)], [*range(40)]], [640, 640], [((0, 1), 640)]),
        ([[*range(40)], [*range(40)]], [640, 530], [((0, 1), 528)]),
        ([[*range(39), 77], [*range(17), 78], [*range(40)]], [639, 280, 639], [((0, 1, 2), 272)]),
        ([[*range(39), 77], [5], [*range(40)]], [639, 3, 639], [((0, 2), 624)]),
        ([[*range(40)], [*range(40)]], [640, 255], []),
        ([[*range(1, 41)], [*range(40)]], [640, 640], []),
        ([[*range(40)]], [640], []),
    ],
    ids=["same", "one-shorter", "three-parting", "two-of-three", "too-short", "foreign", "alone"],
)
def test_groups_are_rows_with_the_same_first_blocks(
    tables: list[list[int]],
    positions: list[int],
    groups: list[tuple[tuple[int, ...], int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefix_groups, "SECOND_PASS_BYTES", 0)
    found = prefix_groups.find_groups(tables, positions, block_size=16, key_bytes=1, part_bytes=0)
    assert [(group.members, group.keys) for group in found] == groups


def test_a_second_pass_is_taken_only_where_it_saves_more_than_it_costs() -> None:
    """16 rows of an 8B model: prefixes of 512 tokens are read again, those of 1,024 are not."""
    for blocks, pays in ((32, False), (64, True)):
        found = prefix_groups.find_groups(
            [range(blocks + 1)] * 16,
            [16 * blocks] * 16,
            block_size=16,
            key_bytes=2 * 8 * 128 * 2,
            part_bytes=3 * 2 * 4 * 32 * 128,
        )
        assert bool(found) is pays


@pytest.mark.parametrize(
    ("mix", "padded_to"),
    [
        ([(1, 31), (1, 200), (1, 5)], PaddedShape(tokens=8, sequences=8, rows=8)),
        ([(5, 100), (1, 40), (40, 0)], PaddedShape(tokens=55, sequences=5, rows=0)),
        ([(5, 100), (1, 40), (40, 0)], PaddedShape(tokens=56, sequences=6, rows=4)),
    ],
    ids=["decode", "prompts", "mixed"],
)
def test_padding_to_a_room_changes_no_result(
    device: str, mix: list[tuple[int, int]], padded_to: PaddedShape
) -> None:
    step = paged_step(mix, heads=(6, 2), head_dim=24, dtype=torch.float32, device=device)
    tokens = len(step.queries)
    sampled = [0, 2] if padded_to.chunks else None
    layout = lay_out_attention(
        step.batch, windows=(None,), sampled=sampled, spec=step.spec, padded_to=padded_to
    )
    bound = layout.form.bind(to_device(layout.arrays, step.spec.device))
    queries = torch.full((padded_to.tokens, 6, 24), torch.nan, device=device)
    queries[:tokens] = step.queries
    got = bound.plans[None].attend(queries, step.layer, step.scale)[:tokens]
    torch.testing.assert_close(got, step.expected, atol=4e-6, rtol=4e-6)
    if sampled is not None:
        ends = torch.tensor([4, 45], device=device)
        queries = torch.full((padded_to.sequences, 6, 24), torch.nan, device=device)
        queries[:2] = step.queries[ends]
        got = bound.last.attend(queries, step.layer, step.scale)
        torch.testing.assert_close(got[:2], step.expected[ends], atol=4e-6, rtol=4e-6)
        assert got[2:].eq(0).all()
