"""What a model computes one step from."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lengthwise_kernels.dispatch import AttentionForm, AttentionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """New tokens of all chunks one after the other, and what their layers share.

    `token_ids` and `positions` are [tokens]; `kv_rows` [2, tokens] says where their keys and values
    go, `begun` which blocks have to be cleared before that; `sampled` numbers the tokens whose
    logits are wanted. `plans` has the attention of all tokens for each sliding window in use,
    `last_plan` that of the sampled ones in the last layer.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    kv_rows: torch.Tensor
    begun: torch.Tensor
    sampled: torch.Tensor
    plans: Mapping[int | None, AttentionPlan]
    last_plan: AttentionPlan

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
        )
