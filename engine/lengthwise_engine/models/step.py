"""What a model computes one step from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.models.experts.routed import ExpertCounts
from lengthwise_kernels.dispatch import AttentionForm, AttentionPlan, AttentionSpec, StepAdapters


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """New tokens of all chunks one after the other, and what their layers share.

    `token_ids` and `positions` are [tokens]; `kv_rows` [2, tokens] says where their keys and values
    go, `begun` which blocks have to be cleared before that; `sampled` numbers the tokens whose
    logits are wanted. `plans` has the attention of all tokens for each sliding window in use,
    `last_plan` that of the sampled ones in the last layer. `adapters`: which token has which;
    None: no token has one.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    kv_rows: torch.Tensor
    begun: torch.Tensor
    sampled: torch.Tensor
    plans: Mapping[int | None, AttentionPlan]
    last_plan: AttentionPlan
    adapters: StepAdapters | None = None

    @classmethod
    def bind(cls, form: AttentionForm, tensors: Mapping[str, torch.Tensor]) -> "StepTensors":
        """`tensors` are what the host laid out, on the device."""
        attention = form.bind(tensors)
        return cls(
            token_ids=tensors["token_ids"],
            positions=tensors["positions"],
            kv_rows=tensors["kv_rows"],
            begun=tensors["begun"],
            sampled=tensors["sampled"],
            plans=attention.plans,
            last_plan=attention.last,
            adapters=StepAdapters.bind(tensors),
        )


class StepModel(Protocol):
    """A loaded model, whoever's code it is; `windows` has one entry for each layer of the cache."""

    device: torch.device
    dtype: torch.dtype
    attention: AttentionSpec

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def expert_counts(self) -> Sequence[ExpertCounts]:
        """Of each layer whose experts are ours."""

    @property
    def windows(self) -> Sequence[int | None]: ...

    @property
    def num_adapters(self) -> int:
        """That it has room for."""

    def forward(
        self, step: StepTensors, cache: torch.Tensor, on_layer: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """Logits, float32 [len(step.sampled), vocab_size], of the step's sampled rows.

        `cache` is a `KVCache.tensor`; keys and values of all new tokens are written to it, and
        `on_layer(i)` is called once those of layer i are.
        """

    def agree(self, tokens: torch.Tensor) -> torch.Tensor:
        """What rank 0 sampled, on all ranks."""

    def all_agree(self, fact: bool) -> bool:
        """Whether it is true on all ranks. Waits for the device."""
