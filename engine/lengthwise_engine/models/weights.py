"""The parameters of a decoder, laid out for computing, and how they come from a checkpoint.

Projections of the same input lie in one matrix (q, k, v; gate, up), and a checkpoint is
used up exactly: a tensor missing, left over or of another shape is an error. A rank reads no bytes
of a projection but its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.spec import Projections
from lengthwise_engine.models.linear import Fp8Linear, Linear, Projection
from lengthwise_engine.models.safetensors_files import SafetensorsFiles
from lengthwise_engine.models.shard import ModelShard
from lengthwise_kernels.dispatch import E4M3, Fp8Rows, check_fp8

_IGNORED: Final = re.compile(r".*\.rotary_emb\.inv_freq")
"""Old exports of Llama 2 store the frequencies, which follow from config.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer; `qkv` yields all query heads, then key heads, then value heads."""

    attention_norm: torch.Tensor
    qkv: Projection
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Projection
    mlp_norm: torch.Tensor
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """A model, or one rank's part of it; `head` is a view of `embedding` where the two are tied.

    `digest` is of all weights of the checkpoint, on rank 0; empty on the others.
    """

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: torch.Tensor
    digest: str


def load_weights(
    files: SafetensorsFiles, shard: ModelShard, *, device: torch.device, dtype: torch.dtype
) -> DecoderWeights:
    """Read a checkpoint in the Hugging Face naming.

    Raises `CheckpointError` if it does not fit, `UnsupportedByKernel` if the device cannot compute
    it.
    """
    spec = shard.whole
    reader = _Reader(files, device, dtype, spec.projections)
    if spec.projections != "full":
        check_fp8(device)
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
    return DecoderWeights(
        embedding=embedding, layers=layers, norm=norm, head=head, digest=files.digest()
    )


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
    """Reads tensors onto a device in one type and remembers which were read.

    Projections may become 8-bit, one by one: beside the result there is never more than one of them
    in the model's type.
    """

    def __init__(
        self,
        files: SafetensorsFiles,
        device: torch.device,
        dtype: torch.dtype,
        projections: Projections,
    ) -> None:
        self._files = files
        self._device = device
        self._dtype = dtype
        self._projections = projections
        self._used: set[str] = set()

    def tensor(self, name: str, shape: tuple[int, ...], rows: range | None = None) -> torch.Tensor:
        """A whole tensor, or some `rows` of it."""
        self._files.require(name, shape)
        part = [range(size) for size in shape]
        if rows is not None:
            part[0] = rows
        target = self._empty([len(each) for each in part])
        self._fill(target, name, shape, part)
        return target

    def widening(self, outputs: Mapping[str, _Cut], in_size: int, bias: bool) -> Projection:
        """The kept outputs of each named projection, one below the other."""
        for name, cut in outputs.items():
            self._files.require(f"{name}.weight", (cut.size, in_size))
        count = sum(len(cut.kept) for cut in outputs.values())
        weight, scales = self._matrix(count, in_size)
        biases = self._empty([count]) if bias else None
        end = 0
        for name, cut in outputs.items():
            rows = slice(end, end := end + len(cut.kept))
            shape = (cut.size, in_size)
            self._fill(weight[rows], f"{name}.weight", shape, (cut.kept, range(in_size)))
            if scales is not None:
                part = (cut.kept, range(1))
                self._fill(scales[rows], f"{name}.weight_scale", (cut.size, 1), part)
            if biases is not None:
                self._fill(biases[rows], f"{name}.bias", (cut.size,), (cut.kept,))
        return self._projection(weight, scales, biases)

    def narrowing(
        self, name: str, inputs: _Cut, out_size: int, bias: bool, rank: int
    ) -> Projection:
        """The kept inputs of a projection whose results the ranks sum; rank 0 adds the bias."""
        shape = (out_size, inputs.size)
        self._files.require(f"{name}.weight", shape)
        weight, scales = self._matrix(out_size, len(inputs.kept))
        self._fill(weight, f"{name}.weight", shape, (range(out_size), inputs.kept))
        if scales is not None:
            part = (range(out_size), range(1))
            self._fill(scales, f"{name}.weight_scale", (out_size, 1), part)
        biases = self.tensor(f"{name}.bias", (out_size,)) if bias else None
        return self._projection(weight, scales, biases if rank == 0 else None)

    def _matrix(self, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Room for a weight, and for the scales of its rows where they are stored."""
        if self._projections != "stored fp8":
            return self._empty([outputs, inputs]), None
        weight = torch.empty([outputs, inputs], dtype=E4M3, device=self._device)
        return weight, torch.empty([outputs, 1], dtype=torch.float32, device=self._device)

    def _projection(
        self, weight: torch.Tensor, scales: torch.Tensor | None, bias: torch.Tensor | None
    ) -> Projection:
        if scales is not None:
            rows = Fp8Rows(values=weight, scales=scales.squeeze(1))
            return Fp8Linear(weight=rows, bias=bias, dtype=self._dtype)
        linear = Linear(weight=weight, bias=bias)
        return Fp8Linear.of(linear) if self._projections == "fp8" else linear

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
