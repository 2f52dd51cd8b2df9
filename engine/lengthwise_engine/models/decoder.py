"""The computation of a Llama-like decoder over a paged KV cache.

The rule: one class serves every family, configured by its `DecoderSpec`; what a step needs besides
weights comes in a `StepTensors`, and nothing is computed whose result nobody reads.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from lengthwise_engine.models.spec import DecoderSpec
from lengthwise_engine.models.weights import DecoderWeights, LayerWeights, Linear
from lengthwise_engine.step_tensors import StepTensors
from lengthwise_kernels.dispatch import (
    AttentionPlan,
    paged_attention,
    rms_norm,
    rotate,
    silu_mul,
    store_kv,
)


class Decoder:
    """A loaded model: spec, weights, device and the type it computes in."""

    def __init__(self, spec: DecoderSpec, weights: DecoderWeights) -> None:
        self.spec = spec
        self.weights = weights
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._frequencies = spec.rope.frequencies(spec.head_dim).to(self.device)

    def forward(
        self,
        step: StepTensors,
        cache: torch.Tensor,
        on_layer: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Logits, float32 [len(step.sampled), vocab_size], of the step's sampled rows.

        `cache` is a `KVCache.tensor`; keys and values of all new tokens are written to it, and
        `on_layer(i)` is called once those of layer i are.
        """
        weights = self.weights
        hidden = functional.embedding(step.token_ids, weights.embedding)
        cos, sin = self._rotation(step.positions)
        for index, layer in enumerate(weights.layers):
            queries, keys, values = self._project(layer, hidden, cos, sin)
            store_kv(cache[index], keys, values, step.kv_rows, step.begun)
            if on_layer is not None:
                on_layer(index)
            plan = step.plans[self.spec.windows[index]]
            if index == self.spec.num_layers - 1:
                # Beyond the last layer's keys and values only sampled rows matter.
                hidden, queries, plan = hidden[step.sampled], queries[step.sampled], step.last_plan
            hidden = self._finish_layer(layer, hidden, queries, cache[index], plan)
        hidden = rms_norm(hidden, weights.norm, self.spec.norm_eps)
        return functional.linear(hidden, weights.head).float()

    def _project(
        self, layer: LayerWeights, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of all new tokens, [tokens, heads, head_dim] each."""
        spec = self.spec
        heads = _linear(rms_norm(hidden, layer.attention_norm, spec.norm_eps), layer.qkv)
        heads = heads.view(len(hidden), -1, spec.head_dim)
        values = heads[:, spec.num_heads + spec.num_kv_heads :]
        rotated = heads[:, : spec.num_heads + spec.num_kv_heads]
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = rotated.tensor_split([spec.num_heads], dim=1)
            queries = rms_norm(queries, layer.query_norm, spec.norm_eps)
            keys = rms_norm(keys, layer.key_norm, spec.norm_eps)
            rotated = torch.cat((queries, keys), dim=1)
        rotated = rotate(rotated, cos, sin)
        return rotated[:, : spec.num_heads], rotated[:, spec.num_heads :], values

    def _finish_layer(
        self,
        layer: LayerWeights,
        hidden: torch.Tensor,
        queries: torch.Tensor,
        cache: torch.Tensor,
        plan: AttentionPlan,
    ) -> torch.Tensor:
        """Attention and the feed-forward part, each added to `hidden`."""
        spec = self.spec
        attended = paged_attention(queries, cache, plan, spec.head_dim**-0.5)
        hidden = hidden + _linear(attended.flatten(1), layer.output)
        gate_up = _linear(rms_norm(hidden, layer.mlp_norm, spec.norm_eps), layer.gate_up)
        return hidden + _linear(silu_mul(gate_up), layer.down)

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, [tokens, head_dim / 2], computed in float32."""
        angles = positions.float().unsqueeze(1) * self._frequencies
        factor = self.spec.rope.attention_factor
        return (angles.cos() * factor).to(self.dtype), (angles.sin() * factor).to(self.dtype)


def _linear(x: torch.Tensor, linear: Linear) -> torch.Tensor:
    return functional.linear(x, linear.weight, linear.bias)
