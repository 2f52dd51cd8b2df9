"""Paged attention against the definition, one query at a time."""

import pytest
import torch
from kernels.paged_attention import Mix, paged_step

from lengthwise_kernels.dispatch import AttentionBatch, AttentionSpec
from lengthwise_kernels.reference.attention import plan_attention

MIXES = {
    "one-token": [(1, 0)],
    "whole-prompt": [(33, 0)],
    "chunk-after-history": [(20, 45)],
    "chunk-on-block-boundary": [(16, 32)],
    "decode-rows-of-mixed-lengths": [(1, 0), (1, 15), (1, 16), (1, 90), (1, 300)],
    "everything-at-once": [(1, 31), (40, 0), (1, 200), (5, 100), (2, 0), (300, 20)],
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("window", [None, 1, 24, 1000], ids=lambda window: f"window-{window}")
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)], ids=["mha", "gqa", "mqa"])
def test_every_query_sees_exactly_its_past(
    mix: Mix, window: int | None, heads: tuple[int, int]
) -> None:
    _check(mix, window, heads, 24, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [8, 64, 80], ids=lambda size: f"head-dim-{size}")
def test_half_precision_is_as_exact_as_it_can_be(dtype: torch.dtype, head_dim: int) -> None:
    _check(MIXES["everything-at-once"], None, (4, 2), head_dim, dtype)


def test_a_step_without_queries_has_no_attention() -> None:
    batch = AttentionBatch(query_lengths=[], starts=[], block_ids=[], block_size=16)
    spec = AttentionSpec(
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    plan = plan_attention(batch, window=None, spec=spec)
    layer = torch.zeros(1, 2, 16, 1, 8)
    assert plan.attend(torch.zeros(0, 2, 8), layer, 1.0).shape == (0, 2, 8)


def _check(
    mix: Mix,
    window: int | None,
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
) -> None:
    step = paged_step(mix, heads=heads, head_dim=head_dim, dtype=dtype, window=window)
    # The engine clears the block that a sequence leaves partly filled when it begins it.
    for table, length, start in zip(
        step.batch.block_ids, step.batch.query_lengths, step.batch.starts, strict=True
    ):
        unused = (length + start) % step.batch.block_size
        if unused:
            step.layer[table[-1], :, unused:] = 0.0
    plan = plan_attention(step.batch, window=window, spec=step.spec)
    got = plan.attend(step.queries, step.layer, step.scale)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.float(), step.expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )
