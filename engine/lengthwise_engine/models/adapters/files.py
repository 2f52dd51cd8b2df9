"""A LoRA adapter's weights on disk, checked against the model that they are to be added to.

All that can be wrong with an adapter is found here, by names and shapes, before memory is taken.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from lengthwise_checkpoint.adapters.adapter_config import WEIGHTS, AdapterSpec, read_adapter_spec
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.tensor_file import TensorFile

_TENSOR: Final = re.compile(
    r"base_model\.model\.model\.layers\.(\d{1,4})\.(self_attn|mlp)\.(\w+_proj)\.lora_([AB])\.weight"
)
_ROOM: Final = {"gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """`key` is NAME@DIGEST: equal where names and all that is computed are. `targets` are the names
    of projections that it changes, in any layer."""

    key: str
    spec: AdapterSpec
    targets: frozenset[str]
    file: TensorFile

    @property
    def is_changed(self) -> bool:
        """Whether it was written to, in place, since it was read."""
        return self.file.is_changed

    def matrices(self, layer: int, projection: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A [rank, in] and B [out, rank] as they are stored; None where it changes nothing. Errors:
        CheckpointError where the file was cut since it was read."""
        names = [_name(layer, projection, matrix) for matrix in "AB"]
        if names[0] not in self.file.places:
            return None
        return self.file.read(names[0]), self.file.read(names[1])


def check_computed(spec: DecoderSpec) -> None:
    """Raises `UnsupportedModel` where adapters of this model are not computed."""
    for reason, holds in (
        ("cannot be added to projections in FP8", "fp8" in spec.projections),
        ("cannot be added to a mixture of experts", spec.experts is not None),
    ):
        if holds:
            raise UnsupportedModel(f"adapters: got some, but they {reason}; serve none")


def read_adapter(name: str, folder: Path, spec: DecoderSpec) -> AdapterFile:
    """Raises `CheckpointError` for one that is damaged or made for another model,
    `UnsupportedModel` for what is not computed."""
    adapter = read_adapter_spec(folder)
    file = TensorFile(folder / WEIGHTS)
    if not file.places:
        raise CheckpointError(f"{file.path}: has no tensors, expected those of a LoRA adapter")
    parts = projection_parts(ModelShard(whole=spec))
    targets = {_check(tensor, file, adapter, spec, parts) for tensor in file.places}
    _check_finite(file, adapter)
    key = f"{name}@{_digest(file, adapter)}"
    return AdapterFile(key=key, spec=adapter, targets=frozenset(targets), file=file)


def projection_parts(shard: ModelShard) -> Mapping[str, tuple[range, range]]:
    """The inputs and outputs that a rank has of each projection that an adapter may change: those
    of its own weights. Where ranks sum what they have of the inputs, they sum it of adapters too.
    """
    hidden, neurons = range(shard.whole.hidden_size), shard.neurons
    heads, kv = shard.query_numbers, shard.kv_numbers
    return {
        "q_proj": (hidden, heads),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (heads, hidden),
        "gate_proj": (hidden, neurons),
        "up_proj": (hidden, neurons),
        "down_proj": (neurons, hidden),
    }


def _check(
    tensor: str,
    file: TensorFile,
    adapter: AdapterSpec,
    spec: DecoderSpec,
    parts: Mapping[str, tuple[range, range]],
) -> str:
    """The projection that a tensor belongs to."""
    match = _TENSOR.fullmatch(tensor)
    if match is None or match[3] not in parts or match[2] != _ROOM.get(match[3], "self_attn"):
        raise UnsupportedModel(
            f"{file.path}: tensor {tensor} is no lora_A or lora_B of a layer's"
            f" {', '.join(parts)}; nothing else can be adapted"
        )
    layer, projection, matrix = int(match[1]), match[3], match[4]
    if layer >= spec.num_layers:
        raise CheckpointError(
            f"{file.path}: tensor {tensor} is of layer {layer}, the model has {spec.num_layers}:"
            " the adapter is of another base model"
        )
    other = _name(layer, projection, "B" if matrix == "A" else "A")
    if other not in file.places:
        raise CheckpointError(f"{file.path}: tensor {other} is missing, {tensor} is there")
    inputs, outputs = map(len, parts[projection])
    place, rank = file.places[tensor], adapter.rank
    expected = (rank, inputs) if matrix == "A" else (outputs, rank)
    if place.shape != expected:
        raise CheckpointError(
            f"{file.path}: tensor {tensor} has shape {place.shape}, the model and r {rank} imply"
            f" {expected}: the adapter is of another base model or rank"
        )
    if place.dtype not in file.full_dtypes:
        raise UnsupportedModel(
            f"{file.path}: tensor {tensor} has type {place.dtype}; supported are"
            f" {', '.join(file.full_dtypes)}"
        )
    return projection


def _name(layer: int, projection: str, matrix: str) -> str:
    room = _ROOM.get(projection, "self_attn")
    return f"base_model.model.model.layers.{layer}.{room}.{projection}.lora_{matrix}.weight"


def _check_finite(file: TensorFile, adapter: AdapterSpec) -> None:
    """A training that diverged leaves others, of which nothing but the first token would come."""
    for name in file.places:
        if not (file.read(name).float() * adapter.scaling).isfinite().all():
            raise CheckpointError(
                f"{file.path}: tensor {name} has numbers that are not finite, or are not when they"
                f" count {adapter.scaling:g} times"
            )


def _digest(file: TensorFile, adapter: AdapterSpec) -> str:
    """16 hex digits of all that decides what the adapter adds. Of the file that is open: another
    may have its name by now."""
    with Path(f"/proc/self/fd/{file.descriptor}").open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8))
    digest.update(f"{adapter.rank} {adapter.scaling}".encode())
    return digest.hexdigest()
