"""Random steps over a paged cache, and what attention over them is by definition.

What was never stored is not a number, so that reading it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lengthwise_kernels.attention_plan import AttentionBatch, AttentionSpec

# (new tokens, tokens before them) of each sequence of a step
Mix = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedStep:
    """A step ready to be planned.

    `expected` is its attention in float32, [tokens, heads, dim], and `expected_lse` the logarithm
    of each softmax's denominator, [tokens, heads].
    """

    batch: AttentionBatch
    spec: AttentionSpec
    queries: torch.Tensor
    layer: torch.Tensor
    expected: torch.Tensor
    expected_lse: torch.Tensor

    @property
    def scale(self) -> float:
        return float(self.spec.head_dim**-0.5)


def paged_step(
    mix: Mix,
    *,
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    window: int | None = None,
    block_size: int = 16,
    device: str = "cpu",
    shared: Sequence[int] = (),
) -> PagedStep:
    """Sequences of these lengths in shuffled blocks; `heads` are (query heads, key heads).

    `shared` says for each sequence how many of its first tokens are those of the first sequence
    with the same number, in the same blocks.
    """
    generator = torch.Generator().manual_seed(1)
    num_heads, num_kv_heads = heads
    counts = [-(-(length + start) // block_size) for length, start in mix]
    order = torch.randperm(sum(counts) + 3, generator=generator).tolist()
    shape = (len(order), 2, block_size, num_kv_heads, head_dim)
    layer = torch.full(shape, float("nan"), dtype=dtype)
    tables, queries, results = [], [], []
    owners: dict[int, tuple[list[int], torch.Tensor]] = {}
    for index, ((length, start), count) in enumerate(zip(mix, counts, strict=True)):
        table, order = order[:count], order[count:]
        end = length + start
        kv = torch.randn(2, end, num_kv_heads, head_dim, generator=generator).to(dtype)
        if shared:
            prefix = shared[index]
            first_table, first_kv = owners.setdefault(prefix, (table, kv))
            table[: prefix // block_size] = first_table[: prefix // block_size]
            kv[:, :prefix] = first_kv[:, :prefix]
        tables.append(table)
        keys, values = kv
        positions = torch.arange(end)
        blocks, slots = torch.tensor(table)[positions // block_size], positions % block_size
        layer[blocks, 0, slots], layer[blocks, 1, slots] = keys, values
        query = torch.randn(length, num_heads, head_dim, generator=generator).to(dtype)
        queries.append(query)
        results.append(attention_by_definition(query, keys, values, start, window))
    batch = AttentionBatch(
        query_lengths=[length for length, _ in mix],
        starts=[start for _, start in mix],
        block_ids=tables,
        block_size=block_size,
    )
    spec = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=torch.device(device),
    )
    return PagedStep(
        batch=batch,
        spec=spec,
        queries=torch.cat(queries).to(device),
        layer=layer.to(device),
        expected=torch.cat([out for out, _ in results]).to(device),
        expected_lse=torch.cat([lse for _, lse in results]).to(device),
    )


def attention_by_definition(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """By masked scores in float32; the first query is at position `start`.

    Returns results [queries, heads, dim] and log-sum-exps [queries, heads].
    """
    share = queries.shape[1] // keys.shape[1]
    keys, values = (each.float().repeat_interleave(share, dim=1) for each in (keys, values))
    scores = torch.einsum("qhd,khd->qhk", queries.float(), keys) * queries.shape[-1] ** -0.5
    last = torch.arange(start, start + len(queries))[:, None]
    position = torch.arange(len(keys))[None, :]
    seen = position <= last
    if window is not None:
        seen &= position > last - window
    scores.masked_fill_(~seen[:, None, :], -torch.inf)
    return torch.einsum("qhk,khd->qhd", scores.softmax(-1), values), scores.logsumexp(-1)
