"""From a checkpoint folder to a spec and a model.

The rule: everything that can be wrong with a checkpoint is found here, at start, and is a
`CheckpointError`.
"""

from dataclasses import replace
from pathlib import Path

import torch

from lengthwise_engine.models.config_json import ConfigJson
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.families import read_decoder_spec
from lengthwise_engine.models.generation import read_generation_defaults
from lengthwise_engine.models.quantisation import Quantization
from lengthwise_engine.models.safetensors_files import SafetensorsFiles
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.spec import DecoderSpec
from lengthwise_engine.models.weights import load_weights


def read_spec(checkpoint: Path, quantization: Quantization = "none") -> DecoderSpec:
    """The spec of a checkpoint folder of a supported family, to be computed as told."""
    config = ConfigJson.read(checkpoint / "config.json")
    spec = read_decoder_spec(config, read_generation_defaults(checkpoint))
    if quantization == "fp8" and spec.projections == "full":
        return replace(spec, projections="fp8")
    return spec


def compute_dtype(
    spec: DecoderSpec, device: torch.device, dtype: torch.dtype | None
) -> torch.dtype:
    """The type a model computes in: `dtype`, or if that is None the checkpoint's own on a GPU and
    float32 on a CPU, where half precision is slower, not faster."""
    if dtype is not None:
        return dtype
    return torch.float32 if device.type == "cpu" else getattr(torch, spec.dtype)


def load_model(
    checkpoint: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
) -> Decoder:
    """Load a checkpoint folder, to compute in `compute_dtype`."""
    spec = read_spec(checkpoint, quantization)
    weights = load_weights(
        SafetensorsFiles(checkpoint),
        ModelShard(whole=spec),
        device=device,
        dtype=compute_dtype(spec, device, dtype),
    )
    return Decoder(spec, weights)
