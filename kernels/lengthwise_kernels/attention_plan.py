"""What attention is asked for in a step, and what it is then computed with.

The rule: everything that depends on lengths and block tables is worked out once per step in a plan;
the layers of the step share it. A query at position i sees the keys at positions
max(0, i - window + 1) .. i of its own sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What is the same in every step of a model; `dtype` is that of queries, keys and values."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """What a step attends to: per sequence its new tokens, the tokens before them and its blocks.

    Queries of all sequences lie one after the other; keys and values of the new tokens are in the
    cache already.
    """

    query_lengths: Sequence[int]
    starts: Sequence[int]
    block_ids: Sequence[Sequence[int]]
    block_size: int


class AttentionPlan(Protocol):
    """A step's attention, worked out for layers with one sliding window."""

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        """softmax(scale q k) v for the queries [tokens, num_heads, head_dim] of the step.

        `layer` is [num_blocks, 2, block_size, num_kv_heads, head_dim]; query heads h · num_heads /
        num_kv_heads and following share key head h. Returns the shape of `queries`.
        """
        ...
