"""Paged attention against the definition, one query at a time."""

import pytest
import torch

from lengthwise_kernels.dispatch import (
    AttentionBatch,
    kv_rows,
    paged_attention,
    plan_attention,
    store_kv,
)

BLOCK_SIZE = 16
# (new tokens, tokens before them) of each sequence of a step
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
    mix: list[tuple[int, int]], window: int | None, heads: tuple[int, int]
) -> None:
    _check(mix, window, heads, 24, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [8, 64, 80], ids=lambda size: f"head-dim-{size}")
def test_half_precision_is_as_exact_as_it_can_be(dtype: torch.dtype, head_dim: int) -> None:
    _check(MIXES["everything-at-once"], None, (4, 2), head_dim, dtype)


def test_a_step_without_queries_has_no_attention() -> None:
    batch = AttentionBatch(query_lengths=[], starts=[], block_ids=[], block_size=BLOCK_SIZE)
    plan = plan_attention(batch, window=None, dtype=torch.float32, device=torch.device("cpu"))
    layer = torch.zeros(1, 2, BLOCK_SIZE, 1, 8)
    assert paged_attention(torch.zeros(0, 2, 8), layer, plan, 1.0).shape == (0, 2, 8)


def _check(
    mix: list[tuple[int, int]],
    window: int | None,
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(1)
    num_heads, num_kv_heads = heads
    ends = [length + start for length, start in mix]
    counts = [-(-end // BLOCK_SIZE) for end in ends]
    order = torch.randperm(sum(counts) + 3, generator=generator).tolist()
    # What nobody stored is not a number, so that reading it shows.
    shape = (len(order), 2, BLOCK_SIZE, num_kv_heads, head_dim)
    layer = torch.full(shape, float("nan"), dtype=dtype)
    tables, queries, expected = [], [], []
    for (length, start), end, count in zip(mix, ends, counts, strict=True):
        table, order = order[:count], order[count:]
        tables.append(table)
        keys, values = torch.randn(2, end, num_kv_heads, head_dim, generator=generator).to(dtype)
        positions = torch.arange(end)
        blocks = torch.tensor(table)[positions // BLOCK_SIZE]
        store_kv(layer, keys, values, kv_rows(positions, blocks, BLOCK_SIZE), blocks[-1:])
        query = torch.randn(length, num_heads, head_dim, generator=generator).to(dtype)
        queries.append(query)
        expected.append(_definition(query, keys, values, start, window))
    batch = AttentionBatch(
        query_lengths=[length for length, _ in mix],
        starts=[start for _, start in mix],
        block_ids=tables,
        block_size=BLOCK_SIZE,
    )
    plan = plan_attention(batch, window=window, dtype=dtype, device=torch.device("cpu"))
    got = paged_attention(torch.cat(queries), layer, plan, head_dim**-0.5)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.float(), torch.cat(expected), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )


def _definition(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    window: int | None,
) -> torch.Tensor:
    share = queries.shape[1] // keys.shape[1]
    rows = []
    for offset, query in enumerate(queries.float()):
        last = start + offset
        first = 0 if window is None else max(0, last - window + 1)
        seen_keys = keys[first : last + 1].float().repeat_interleave(share, dim=1)
        seen_values = values[first : last + 1].float().repeat_interleave(share, dim=1)
        scores = torch.einsum("hd,khd->hk", query, seen_keys) * query.shape[-1] ** -0.5
        rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), seen_values))
    return torch.stack(rows)
