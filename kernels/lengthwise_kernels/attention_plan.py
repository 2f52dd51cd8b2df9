"""What attention is asked for in a step, and what it is then computed with.

Everything that depends on lengths and block tables is worked out once per step in a plan;
the layers of the step share it. It is worked out on the host, into arrays that travel to the device
together with the rest of the step; what is launched then depends on a form and on tensors, never on
a length, so that one CUDA graph serves all steps of a form. A query at position i sees the keys at
positions max(0, i - window + 1) .. i of its own sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lengthwise_kernels.staging import Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What is the same in every step of a model; `dtype` is that of queries, keys and values.

    `invariant`: a token's result is the same to the bit whatever else a step computes, and whether
    it computes the token as a single one or in a chunk. `plain`: by plain PyTorch on
    every device, as whatever has `Scoring` is.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    invariant: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What some models do between scores and their softmax.

    Scores s become `cap` tanh(s / cap) (Gemma 2, arXiv:2408.00118); `sinks` [num_heads] stand
    beside the scores of each query and take their share of its weights (gpt-oss, after
    arXiv:2309.17453).
    """

    cap: float | None = None
    sinks: torch.Tensor | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedShape:
    """What a step is padded to so that it can be replayed from a CUDA graph.

    `rows` of its sequences are single tokens and as many of its tokens theirs; all others are
    prompt chunks, also those of one token where there are no rows.
    """

    tokens: int
    sequences: int
    rows: int

    @property
    def chunks(self) -> int:
        return self.sequences - self.rows

    @property
    def chunk_tokens(self) -> int:
        return self.tokens - self.rows


class AttentionPlan(Protocol):
    """A step's attention, worked out for layers with one sliding window."""

    def attend(self, queries: torch.Tensor, layer: torch.Tensor, scale: float) -> torch.Tensor:
        """softmax(scale q k) v for the queries [tokens, num_heads, head_dim] of the step.

        `layer` is [num_blocks, 2, block_size, num_kv_heads, head_dim]; query heads h · num_heads /
        num_kv_heads and following share key head h. Returns the shape of `queries`.
        """


class ScoredPlan(AttentionPlan, Protocol):
    """Of an `AttentionSpec` that is `plain`."""

    def attend_scored(
        self, queries: torch.Tensor, layer: torch.Tensor, scale: float, scoring: Scoring
    ) -> torch.Tensor:
        """The same with `scoring`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttention:
    """The attention of a step's layers: `plans` by sliding window, for the queries of all tokens,
    and `last` for those of sampled tokens alone, in the last layer."""

    plans: Mapping[int | None, AttentionPlan]
    last: AttentionPlan


class AttentionForm(Protocol):
    """What launches depend on besides the tensors and their shapes; hashable."""

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> StepAttention:
        """`tensors` are the layout's arrays on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """Attention of a step as the host knows it.

    A `PaddedShape` decides the form and the shapes of all arrays but the last, which is as long as
    the sequences are; no kernel asks how long it is.
    """

    form: AttentionForm
    arrays: Arrays
