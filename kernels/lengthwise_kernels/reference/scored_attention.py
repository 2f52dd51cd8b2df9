"""Attention of models that change scores on their way to the softmax, written out."""

from typing import Final

import torch

from lengthwise_kernels.attention_plan import Scoring

_QUERY_TILE: Final = 256
"""Queries whose scores exist at a time."""


def scored_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float,
    scoring: Scoring,
) -> torch.Tensor:
    """softmax(scoring(scale q k)) v of [rows, queries, num_heads, head_dim].

    `keys` and `values` are [rows, keys, num_kv_heads, head_dim]; `seen` [(rows, 1, 1,) queries,
    keys] says which keys a query sees, None: query i sees the keys up to i.
    """
    num_rows, num_queries, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[2]
    keys, values = keys.permute(0, 2, 3, 1).unsqueeze(2), values.transpose(1, 2).unsqueeze(2)
    shape = (num_rows, num_queries, num_kv_heads, -1, head_dim)
    grouped = queries.view(shape).permute(0, 2, 3, 1, 4)
    sinks = None if scoring.sinks is None else scoring.sinks.view(num_kv_heads, -1, 1, 1)
    parts = []
    for first in range(0, num_queries, _QUERY_TILE):
        tile = grouped[..., first : first + _QUERY_TILE, :]
        scores = (tile @ keys).float() * scale
        if scoring.cap is not None:
            scores = scoring.cap * torch.tanh(scores / scoring.cap)
        hidden = _hidden(seen, first, scores)
        scores.masked_fill_(hidden, float("-inf"))
        parts.append(_softmax(scores, sinks).to(values.dtype) @ values)
    attended = torch.cat(parts, dim=3)
    return attended.permute(0, 3, 1, 2, 4).reshape(num_rows, num_queries, num_heads, -1)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension, sinks beside it."""
    if sinks is None:
        return scores.softmax(-1)
    beside = sinks.float().expand(*scores.shape[:-1], 1)
    return torch.cat((scores, beside), dim=-1).softmax(-1)[..., :-1]


def _hidden(seen: torch.Tensor | None, first: int, scores: torch.Tensor) -> torch.Tensor:
    """What the queries from `first` on do not see, for scores of [..., queries, keys]."""
    num_queries, num_keys, device = *scores.shape[-2:], scores.device
    if seen is None:
        places = torch.arange(first, first + num_queries, device=device).unsqueeze(1)
        return torch.arange(num_keys, device=device) > places
    if seen.dim() == 2:
        return ~seen[first : first + num_queries]
    return ~seen.unsqueeze(1)
