"""A model that transformers computes, step by step over our cache."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lengthwise_engine.models.experts.routed import ExpertCounts
from lengthwise_engine.models.foreign.attention import CalledAttention, attending
from lengthwise_engine.models.foreign.projection import projections
from lengthwise_engine.models.foreign.spec import ForeignSpec
from lengthwise_engine.models.step import StepTensors
from lengthwise_kernels.dispatch import AttentionSpec, clear_blocks


class ForeignModel:
    """What `TorchRunner` computes, as `Decoder` is.

    All tokens of a step are one row for transformers, with their own positions; what keeps the
    sequences apart is the attention, the only thing in a decoder that looks at other tokens.
    """

    def __init__(
        self, spec: ForeignSpec, model: Any, digest: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`model` is a causal language model of transformers with weights; `digest` is of them."""
        self.spec = spec
        self.digest = digest
        self.device = device
        self.dtype = dtype
        self._model = model
        self.set_invariant(False)

    def set_invariant(self, is_invariant: bool) -> None:
        """Whether attention and projections compute a row alike beside any others; whether all else
        does is to be tried."""
        spec = self.spec
        self.attention = AttentionSpec(
            num_heads=max(call.num_heads for call in spec.calls),
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=self.dtype,
            device=self.device,
            invariant=is_invariant,
            plain=spec.is_scored,
        )
        for projection in projections(self._model):
            projection.set_invariant(is_invariant)

    @property
    def expert_counts(self) -> Sequence[ExpertCounts]:
        return ()

    @property
    def windows(self) -> Sequence[int | None]:
        return self.spec.windows

    @property
    def num_adapters(self) -> int:
        return 0

    def forward(
        self, step: StepTensors, cache: torch.Tensor, on_layer: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """As `Decoder.forward`."""
        clear_blocks(cache, step.begun)
        with attending(CalledAttention(self.spec.calls, step, cache, on_layer)):
            result = self._model(
                input_ids=step.token_ids.unsqueeze(0),
                position_ids=step.positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=step.sampled,
            )
        logits: torch.Tensor = result.logits[0]
        if len(logits) != len(step.sampled):  # an architecture that knows no logits_to_keep
            logits = logits[step.sampled]
        return logits.float()

    def agree(self, tokens: torch.Tensor) -> torch.Tensor:
        """There is one rank."""
        return tokens

    def all_agree(self, fact: bool) -> bool:
        return fact
