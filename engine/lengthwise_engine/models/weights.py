"""The parameters of a decoder, laid out for computing, and how they come from a checkpoint.

The rule: projections of the same input lie in one matrix (q, k, v; gate, up), and a checkpoint is
used up exactly: a tensor missing, left over or of another shape is an error. A rank reads no bytes
of a projection but its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_engine.errors import CheckpointError
from lengthwise_engine.models.linear import Linear
from lengthwise_engine.models.safetensors_files import SafetensorsFiles
from lengthwise_engine.models.shard import ModelShard

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
    """A model, or one rank's part of it; `head` is a view of `embedding` where the two are tied."""

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: torch.Tensor


def load_weights(
    files: SafetensorsFiles, shard: ModelShard, *, device: torch.device, dtype: torch.dtype
) -> DecoderWeights:
    """Read a checkpoint in the Hugging Face naming; raises `CheckpointError` if it does not fit."""
    spec = shard.whole
    reader = _Reader(files, device, dtype)
    vocabulary = (spec.vocab_size, spec.hidden_size)
    embedding = reader.tensor("model.embed_tokens.weight", vocabulary)
    layers = tuple(_load_layer(reader, shard, layer) for layer in range(spec.num_layers))
    norm = reader.tensor("model.norm.weight", (spec.hidden_size,))
    # As transformers: a stored head wins over a config that says it is tied.
    if spec.tied_embeddings and "lm_head.weight" not in files:
        head = embedding[shard.vocabulary.start : shard.vocabulary.stop]
    else:
        head = reader.tensor("lm_head.weight", vocabulary, rows=shard.vocabulary)
    reader.check_all_used()
    return DecoderWeights(embedding=embedding, layers=layers, norm=norm, head=head)


def _load_layer(reader: "_Reader", shard: ModelShard, layer: int) -> LayerWeights:
    spec = shard.whole
    prefix = f"model.layers.{layer}."
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    hidden, head_norm = (spec.hidden_size,), (spec.head_dim,)
    query = _Cut(spec.num_heads * spec.head_dim, _scaled(shard.query_heads, spec.head_dim))
    kv = _Cut(spec.num_kv_heads * spec.head_dim, _scaled(shard.kv_heads, spec.head_dim))
    inner = _Cut(spec.intermediate_size, shard.neurons)
    return LayerWeights(
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
        gate_up=reader.widening(
            {f"{mlp}gate_proj": inner, f"{mlp}up_proj": inner}, spec.hidden_size, spec.mlp_bias
        ),
        down=reader.narrowing(
            f"{mlp}down_proj", inner, spec.hidden_size, spec.mlp_bias, shard.rank
        ),
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """One side of a projection: its whole size, and the range of it that is kept."""

    size: int
    kept: range


def _scaled(heads: range, head_dim: int) -> range:
    return range(heads.start * head_dim, heads.stop * head_dim)


class _Reader:
    """Reads tensors onto a device in one type and remembers which were read."""

    def __init__(self, files: SafetensorsFiles, device: torch.device, dtype: torch.dtype) -> None:
        self._files = files
        self._device = device
        self._dtype = dtype
        self._used: set[str] = set()

    def tensor(self, name: str, shape: tuple[int, ...], rows: range | None = None) -> torch.Tensor:
        """A whole tensor, or some `rows` of it."""
        part = [range(size) for size in shape]
        if rows is not None:
            part[0] = rows
        target = self._empty([len(each) for each in part])
        self._fill(target, name, shape, part)
        return target

    def widening(self, outputs: Mapping[str, _Cut], in_size: int, bias: bool) -> Linear:
        """The kept outputs of each named projection, one below the other."""
        sizes = [len(cut.kept) for cut in outputs.values()]
        weight = self._empty([sum(sizes), in_size])
        biases = self._empty([sum(sizes)]) if bias else None
        for target, (name, cut) in zip(torch.split(weight, sizes), outputs.items(), strict=True):
            shape = (cut.size, in_size)
            self._fill(target, f"{name}.weight", shape, (cut.kept, range(in_size)))
        if biases is not None:
            parts = zip(torch.split(biases, sizes), outputs.items(), strict=True)
            for target, (name, cut) in parts:
                self._fill(target, f"{name}.bias", (cut.size,), (cut.kept,))
        return Linear(weight=weight, bias=biases)

    def narrowing(self, name: str, inputs: _Cut, out_size: int, bias: bool, rank: int) -> Linear:
        """The kept inputs of a projection whose results the ranks sum; rank 0 adds the bias."""
        weight = self._empty([out_size, len(inputs.kept)])
        shape = (out_size, inputs.size)
        self._fill(weight, f"{name}.weight", shape, (range(out_size), inputs.kept))
        biases = self.tensor(f"{name}.bias", (out_size,)) if bias else None
        return Linear(weight=weight, bias=biases if rank == 0 else None)

    def check_all_used(self) -> None:
        left = sorted(
            name for name in self._files.names() - self._used if not _IGNORED.fullmatch(name)
        )
        if left:
            raise CheckpointError(
                f"{self._files.folder}: {len(left)} tensors that config.json does not account for,"
                f" such as {', '.join(left[:3])}"
            )

    def _empty(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def _fill(
        self, target: torch.Tensor, name: str, shape: tuple[int, ...], part: Sequence[range]
    ) -> None:
        self._files.copy_into(target, name, shape, part)
        self._used.add(name)
