"""The parameters of a decoder, laid out for computing, and how they come from a checkpoint.

The rule: projections of the same input lie in one matrix (q, k, v; gate, up), and a checkpoint is
used up exactly: a tensor missing, left over or of another shape is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_engine.errors import CheckpointError
from lengthwise_engine.models.linear import Linear
from lengthwise_engine.models.safetensors_files import SafetensorsFiles
from lengthwise_engine.models.spec import DecoderSpec

_IGNORED: Final = re.compile(r".*\.rotary_emb\.inv_freq")
"""Old exports of Llama 2 store the frequencies, which follow from config.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer; `qkv` yields all query heads, then key heads, then value heads."""

    attention_norm: torch.Tensor
    qkv: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """A whole model; `head` is `embedding` itself where the two are tied."""

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: torch.Tensor


def load_weights(
    files: SafetensorsFiles, spec: DecoderSpec, *, device: torch.device, dtype: torch.dtype
) -> DecoderWeights:
    """Read a checkpoint in the Hugging Face naming; raises `CheckpointError` if it does not fit."""
    reader = _Reader(files, device, dtype)
    vocabulary = (spec.vocab_size, spec.hidden_size)
    embedding = reader.tensor("model.embed_tokens.weight", vocabulary)
    layers = tuple(_load_layer(reader, spec, layer) for layer in range(spec.num_layers))
    norm = reader.tensor("model.norm.weight", (spec.hidden_size,))
    # As transformers: a stored head wins over a config that says it is tied.
    head = embedding
    if not spec.tied_embeddings or "lm_head.weight" in files:
        head = reader.tensor("lm_head.weight", vocabulary)
    reader.check_all_used()
    return DecoderWeights(embedding=embedding, layers=layers, norm=norm, head=head)


def _load_layer(reader: "_Reader", spec: DecoderSpec, layer: int) -> LayerWeights:
    prefix = f"model.layers.{layer}."
    hidden, inner = spec.hidden_size, spec.intermediate_size
    query_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    head_norm = (spec.head_dim,)
    return LayerWeights(
        attention_norm=reader.tensor(f"{prefix}input_layernorm.weight", (hidden,)),
        qkv=reader.linear(
            [f"{attention}q_proj", f"{attention}k_proj", f"{attention}v_proj"],
            [query_size, kv_size, kv_size],
            hidden,
            spec.qkv_bias,
        ),
        query_norm=reader.tensor(f"{attention}q_norm.weight", head_norm) if spec.qk_norm else None,
        key_norm=reader.tensor(f"{attention}k_norm.weight", head_norm) if spec.qk_norm else None,
        output=reader.linear([f"{attention}o_proj"], [hidden], query_size, spec.output_bias),
        mlp_norm=reader.tensor(f"{prefix}post_attention_layernorm.weight", (hidden,)),
        gate_up=reader.linear(
            [f"{mlp}gate_proj", f"{mlp}up_proj"], [inner, inner], hidden, spec.mlp_bias
        ),
        down=reader.linear([f"{mlp}down_proj"], [hidden], inner, spec.mlp_bias),
    )


class _Reader:
    """Reads tensors onto a device in one type and remembers which were read."""

    def __init__(self, files: SafetensorsFiles, device: torch.device, dtype: torch.dtype) -> None:
        self._files = files
        self._device = device
        self._dtype = dtype
        self._used: set[str] = set()

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        target = self._empty(shape)
        self._fill(target, name)
        return target

    def linear(
        self, names: Sequence[str], sizes: Sequence[int], in_size: int, bias: bool
    ) -> Linear:
        """The projections `names`, with `sizes` outputs each, one below the other."""
        weight = self._empty((sum(sizes), in_size))
        for part, name in zip(torch.split(weight, list(sizes)), names, strict=True):
            self._fill(part, f"{name}.weight")
        if not bias:
            return Linear(weight=weight, bias=None)
        biases = self._empty((sum(sizes),))
        for part, name in zip(torch.split(biases, list(sizes)), names, strict=True):
            self._fill(part, f"{name}.bias")
        return Linear(weight=weight, bias=biases)

    def check_all_used(self) -> None:
        left = sorted(
            name for name in self._files.names() - self._used if not _IGNORED.fullmatch(name)
        )
        if left:
            raise CheckpointError(
                f"{self._files.folder}: {len(left)} tensors that config.json does not account for,"
                f" such as {', '.join(left[:3])}"
            )

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def _fill(self, target: torch.Tensor, name: str) -> None:
        self._files.copy_into(target, name)
        self._used.add(name)
