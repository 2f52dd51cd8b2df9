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
from lengthwise_kernels.gpu.attention import decode_rows, plan_attention
from lengthwise_kernels.gpu.decode_attention import decode_attention

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
