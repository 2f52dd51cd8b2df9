"""The parameters of a decoder, laid out for computing, and how they come from a checkpoint.

Projections of the same input lie in one matrix (q, k, v; gate, up), and a checkpoint is
used up exactly: a tensor missing, left over or of another shape is an error. A rank reads no bytes
of a projection but its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_engine.models.experts.grouped import GroupedExperts
from lengthwise_engine.models.experts.routed import Expert, Experts
from lengthwise_engine.models.linear import Linear, Projection
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weight_reader import Cut, WeightReader
from lengthwise_kernels.dispatch import add_rms_norm, check_fp8

_DENSE: Final = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_ROUTER: Final[Mapping[str, str]] = {"mixtral": "block_sparse_moe.gate", "qwen3_moe": "mlp.gate"}
_EXPERT: Final[Mapping[str, Sequence[str]]] = {
    "mixtral": [f"block_sparse_moe.experts.{{}}.{name}" for name in ("w1", "w3", "w2")],
    "qwen3_moe": [f"mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")],
}
"""Gate, up and down of an expert, by its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights(ABC):
    """One layer; `qkv` yields all query heads, then key heads, then value heads."""

    attention_norm: torch.Tensor
    qkv: Projection
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Projection
    mlp_norm: torch.Tensor

    @abstractmethod
    def mlp(
        self, x: torch.Tensor, residual: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the RMS norm of x + residual; and x + residual."""

    @abstractmethod
    def invariant(self) -> "LayerWeights":
        """The same; its projections compute a row alike beside any others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayerWeights(LayerWeights):
    """One whose rows all go through the same MLP."""

    gate_up: Projection
    down: Projection

    def mlp(
        self, x: torch.Tensor, residual: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gate_up, total = self.gate_up.after_norm(x, residual, self.mlp_norm, eps)
        return self.down.after_gate(gate_up), total

    def invariant(self) -> "DenseLayerWeights":
        return replace(
            self,
            qkv=self.qkv.in_any_batch(),
            output=self.output.in_any_batch(),
            gate_up=self.gate_up.in_any_batch(),
            down=self.down.in_any_batch(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedLayerWeights(LayerWeights):
    """One of a mixture of experts."""

    experts: Experts | GroupedExperts

    def mlp(
        self, x: torch.Tensor, residual: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed, total = add_rms_norm(x, residual, self.mlp_norm, eps)
        return self.experts(normed), total

    def invariant(self) -> "RoutedLayerWeights":
        return replace(
            self,
            qkv=self.qkv.in_any_batch(),
            output=self.output.in_any_batch(),
            experts=self.experts.in_any_batch(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """A model, or one rank's part of it; a tied `head` has a view of `embedding`, or is packed.

    `digest` is of all weights of the checkpoint, on rank 0; empty on the others. What is stored as
    it is computed is mapped from `files` on a CPU: no weight may be written to.
    """

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: Linear
    digest: str
    files: WeightFiles

    def invariant(self) -> "DecoderWeights":
        """The same, with invariant layers and head."""
        layers = tuple(layer.invariant() for layer in self.layers)
        return replace(self, layers=layers, head=self.head.in_any_batch())


def load_weights(
    files: WeightFiles,
    shard: ModelShard,
    *,
    device: torch.device,
    dtype: torch.dtype,
    integer_dtype: torch.dtype | None = None,
) -> DecoderWeights:
    """Read a checkpoint in the Hugging Face naming. `integer_dtype`: what products with integers
    for weights are computed in, if not in `dtype`.

    Raises `CheckpointError` if it does not fit or is not computed on the device,
    `UnsupportedByKernel` if the device is not able to.
    """
    spec = shard.whole
    reader = WeightReader(files, device, dtype, spec, integer_dtype or dtype)
    if spec.projections in ("fp8", "stored fp8"):
        check_fp8(device)
    elif spec.projections != "full" and spec.experts is not None and groups_experts(device):
        raise UnsupportedModel(
            "experts are computed in full or in FP8 on GPUs, got integers; set quantization to none"
            " or fp8"
        )
    vocabulary = (spec.vocab_size, spec.hidden_size)
    embedding = reader.tensor("model.embed_tokens.weight", vocabulary)
    # As transformers: a stored head wins over a config that says it is tied.
    if spec.tied_embeddings and "lm_head.weight" not in files:
        head = reader.tied(embedding[shard.vocabulary.start : shard.vocabulary.stop])
    else:
        head = reader.full("lm_head", vocabulary, shard.vocabulary)
    layers = tuple(_load_layer(reader, shard, layer) for layer in range(spec.num_layers))
    norm = reader.tensor("model.norm.weight", (spec.hidden_size,))
    reader.check_all_used()
    if spec.kept_bits:
        reader.log_kept(spec.kept_bits)
    digest = files.digest()
    files.log_end()
    return DecoderWeights(
        embedding=embedding, layers=layers, norm=norm, head=head, digest=digest, files=files
    )


def _load_layer(reader: WeightReader, shard: ModelShard, layer: int) -> LayerWeights:
    spec = shard.whole
    prefix = f"model.layers.{layer}."
    attention = f"{prefix}self_attn."
    hidden, head_norm = (spec.hidden_size,), (spec.head_dim,)
    query = Cut(spec.num_heads * spec.head_dim, shard.query_numbers)
    kv = Cut(spec.num_kv_heads * spec.head_dim, shard.kv_numbers)
    load_mlp = _load_routed if spec.routed[layer] else _load_dense
    return load_mlp(reader, shard, prefix)(
        attention_norm=reader.tensor(f"{prefix}input_layernorm.weight", hidden),
        qkv=reader.widening(
            {f"{attention}q_proj": query, f"{attention}k_proj": kv, f"{attention}v_proj": kv},
            spec.hidden_size,
            spec.qkv_bias,
        ),
        query_norm=reader.tensor(f"{attention}q_norm.weight", head_norm) if spec.qk_norm else None,
        key_norm=reader.tensor(f"{attention}k_norm.weight", head_norm) if spec.qk_norm else None,
        output=reader.narrowing(
            f"{attention}o_proj", query, spec.hidden_size, spec.output_bias, shard.rank
        ),
        mlp_norm=reader.tensor(f"{prefix}post_attention_layernorm.weight", hidden),
    )


def _load_dense(
    reader: WeightReader, shard: ModelShard, prefix: str
) -> Callable[..., LayerWeights]:
    """A layer with one MLP, but for its attention."""
    spec, names = shard.whole, [f"{prefix}{name}" for name in _DENSE]
    inner = Cut(spec.intermediate_size, shard.neurons)
    gate_up, down = _gated(reader, shard, names, inner, spec.mlp_bias)
    return partial(DenseLayerWeights, gate_up=gate_up, down=down)


def _load_routed(
    reader: WeightReader, shard: ModelShard, prefix: str
) -> Callable[..., LayerWeights]:
    """The same with experts, one by one."""
    spec, experts = shard.whole, shard.whole.experts
    assert experts is not None
    inner = Cut(experts.intermediate_size, shard.expert_neurons)
    names = [f"{prefix}{name}" for name in _EXPERT[spec.model_type]]
    name = f"{prefix}{_ROUTER[spec.model_type]}"
    router = reader.full(name, (experts.count, spec.hidden_size), range(experts.count))
    own = (
        Expert(*_gated(reader, shard, [name.format(number) for name in names], inner, False))
        for number in shard.experts
    )
    for number in set(range(experts.count)) - set(shard.experts):
        reader.leave([f"{name.format(number)}.weight" for name in names])
    settings: dict[str, Any] = {
        "num_chosen": experts.num_chosen,
        "is_normalised": experts.is_normalised,
        "first": shard.experts.start,
    }
    if groups_experts(reader.device):
        grouped = GroupedExperts.of(own, len(shard.experts), router, **settings)
        return partial(RoutedLayerWeights, experts=grouped)
    found = Experts(router=router, experts=tuple(own), **settings)
    return partial(RoutedLayerWeights, experts=found)


def groups_experts(device: torch.device) -> bool:
    """Whether all experts of a layer are computed at once there."""
    return device.type == "cuda"


def _gated(
    reader: WeightReader, shard: ModelShard, names: Sequence[str], inner: Cut, bias: bool
) -> tuple[Projection, Projection]:
    """Gate and up as one projection, and down."""
    gate, up, down = names
    size = shard.whole.hidden_size
    return (
        reader.widening({gate: inner, up: inner}, size, bias),
        reader.narrowing(down, inner, size, bias, shard.rank),
    )
