"""The computation of a Llama-like decoder over a paged KV cache.

One class serves every family, configured by its `DecoderSpec`; what a step needs besides
weights comes in a `StepTensors`, and nothing is computed whose result is not read.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.nn import functional

from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.adapters.stack import AdapterStack
from lengthwise_engine.models.experts.routed import ExpertCounts, Experts
from lengthwise_engine.models.frequencies import rope_frequencies
from lengthwise_engine.models.step import StepTensors
from lengthwise_engine.models.weights import DecoderWeights, LayerWeights, RoutedLayerWeights
from lengthwise_kernels.dispatch import (
    AttentionSpec,
    HeadNorms,
    clear_blocks,
    rms_norm,
    rotate_and_store,
)


class Ranks(Protocol):
    """The ranks that share a model; all of them call the same methods in the same order."""

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """`x`, summed over the ranks."""

    def gather_columns(self, x: torch.Tensor, num_columns: int) -> torch.Tensor:
        """The ranks' columns side by side on rank 0, zeros on the others."""

    def agree(self, x: torch.Tensor) -> torch.Tensor:
        """Rank 0's `x`."""


class Decoder:
    """A loaded model, or one rank's part of it: spec, weights, device and the type it computes in.

    `invariant`: a token's logits are to be the same whatever else a step computes; whether they are
    on this machine, `try_invariance` finds out.
    A part has its own heads and neurons in its `spec`; the `ranks` sum what each of them found.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights: DecoderWeights,
        ranks: Ranks | None = None,
        *,
        invariant: bool = False,
        adapters: AdapterStack | None = None,
    ) -> None:
        self.spec = spec
        self.adapters = adapters
        if invariant:
            weights = weights.invariant()
        self.weights = weights
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self.attention = AttentionSpec(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=self.dtype,
            device=self.device,
            invariant=invariant,
        )
        self._ranks = ranks
        self._frequencies = rope_frequencies(spec.rope, spec.head_dim).to(self.device)

    @property
    def expert_counts(self) -> Sequence[ExpertCounts]:
        layers = self.weights.layers
        routed = [each.experts for each in layers if isinstance(each, RoutedLayerWeights)]
        return [experts.counts for experts in routed if isinstance(experts, Experts)]

    @property
    def windows(self) -> Sequence[int | None]:
        return self.spec.windows

    @property
    def num_adapters(self) -> int:
        return 0 if self.adapters is None else self.adapters.size

    def forward(
        self, step: StepTensors, cache: torch.Tensor, on_layer: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """Logits [len(step.sampled), vocab_size], of the weights' type, of the step's sampled rows.

        `cache` is a `KVCache.tensor`; keys and values of all new tokens are written to it, and
        `on_layer(i)` is called once those of layer i are, by all ranks. Only rank 0 has the logits.
        """
        weights, eps = self.weights, self.spec.norm_eps
        hidden = functional.embedding(step.token_ids, weights.embedding)
        cos, sin = self._rotation(step.positions)
        clear_blocks(cache, step.begun)
        layers: Sequence[LayerWeights] = weights.layers
        if self.adapters is not None and step.adapters is not None:
            layers = self.adapters.applied(layers, step.adapters)
        first = layers[0]
        heads = first.qkv(rms_norm(hidden, first.attention_norm, eps))
        for index, layer in enumerate(layers):
            queries = self._store(layer, heads, cos, sin, cache[index], step.kv_rows)
            if on_layer is not None and self._ranks is None:
                on_layer(index)
            plan = step.plans[self.spec.windows[index]]
            is_last = index == self.spec.num_layers - 1
            if is_last:
                # Beyond the last layer's keys and values only sampled rows matter.
                hidden, queries, plan = hidden[step.sampled], queries[step.sampled], step.last_plan
            attended = plan.attend(queries, cache[index], self.spec.head_dim**-0.5)
            projected = self._sum(layer.output(attended.flatten(1)))
            if on_layer is not None and self._ranks is not None:
                on_layer(index)  # no rank has the sum before all have stored the layer
            partial, hidden = layer.mlp(projected, hidden, eps)
            projected = self._sum(partial)
            if not is_last:
                after = layers[index + 1]
                heads, hidden = after.qkv.after_norm(projected, hidden, after.attention_norm, eps)
        logits, _ = weights.head.after_norm(projected, hidden, weights.norm, eps)
        if self._ranks is not None:
            logits = self._ranks.gather_columns(logits, self.spec.vocab_size)
        return logits

    def _store(
        self,
        layer: LayerWeights,
        heads: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: torch.Tensor,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Write keys and values of all new tokens; returns the queries, [tokens, heads, dim]."""
        norms = None
        if layer.query_norm is not None and layer.key_norm is not None:
            norms = HeadNorms(query=layer.query_norm, key=layer.key_norm, eps=self.spec.norm_eps)
        heads = heads.view(len(heads), -1, self.spec.head_dim)
        return rotate_and_store(heads, cos, sin, norms, cache, rows)

    def agree(self, tokens: torch.Tensor) -> torch.Tensor:
        """What rank 0 sampled, on all ranks: the next step's rows may follow it."""
        return tokens if self._ranks is None else self._ranks.agree(tokens)

    def all_agree(self, fact: bool) -> bool:
        """Whether it is true on all ranks. Waits for the device."""
        if self._ranks is None:
            return fact
        dissent = torch.tensor([float(not fact)], device=self.device)
        return self._ranks.sum(dissent).item() == 0.0

    def _sum(self, partial: torch.Tensor) -> torch.Tensor:
        return partial if self._ranks is None else self._ranks.sum(partial)

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, [tokens, head_dim / 2], computed in float32."""
        angles = positions.float().unsqueeze(1) * self._frequencies
        factor = self.spec.rope.attention_factor
        return (angles.cos() * factor).to(self.dtype), (angles.sin() * factor).to(self.dtype)
