"""From a checkpoint folder to a spec and a model.

All that can be wrong with a checkpoint is found here, at start, and is a `CheckpointError`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lengthwise_checkpoint.families import read_config, read_decoder_spec
from lengthwise_checkpoint.spec import DecoderSpec, ModelSpec
from lengthwise_engine.models.adapters.room import AdapterRoom
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weights import load_weights
from lengthwise_kernels.dispatch import packs

Quantization = Literal["none", "fp8", "int8", "int4"]
"""What a worker does to full projections; those stored as FP8 are computed so either way."""


def read_spec(checkpoint: Path, quantization: Quantization = "none") -> DecoderSpec:
    """The spec of a checkpoint folder of a supported family, with projections as asked."""
    spec = read_decoder_spec(read_config(checkpoint))
    if quantization != "none" and spec.projections == "full":
        return replace(spec, projections=quantization)
    return spec


def read_shard(
    checkpoint: Path, quantization: Quantization, size: int, expert_parallel: bool
) -> ModelShard:
    """Rank 0's of so many. As transformers: a stored head wins over a config that says it is tied.

    Raises `UnsupportedModel` for a model that so many ranks cannot share.
    """
    spec = read_spec(checkpoint, quantization)
    if spec.tied_embeddings and "lm_head.weight" in WeightFiles(checkpoint):
        spec = replace(spec, tied_embeddings=False)
    return ModelShard(whole=spec, size=size, expert_parallel=expert_parallel)


def compute_dtype(spec: ModelSpec, device: torch.device, dtype: torch.dtype | None) -> torch.dtype:
    """The type a model computes in: `dtype`, or if that is None the checkpoint's own; float32
    instead on a CPU, but for bfloat16 where it has instructions for that."""
    if dtype is not None:
        return dtype
    stored: torch.dtype = getattr(torch, spec.dtype)
    return torch.float32 if device.type == "cpu" and not packs(device, stored) else stored


def integer_dtype(
    device: torch.device, asked: torch.dtype | None, kind: torch.dtype
) -> torch.dtype:
    """What products with weights of 4 bits are computed in by a model that computes in `kind`.

    In bfloat16 instead of float32 on a CPU, unless that was `asked` for: PyTorch's kernel has
    instructions for no other type. (896 x 9,728 in groups of 32, one thread of an EPYC with AVX2,
    float32 and bfloat16: 1 row 19.2 and 1.5 ms, 32 rows 569 and 15.7; full weights 2.7 and 13.9.)
    """
    falls_back = asked is None and device.type == "cpu" and kind == torch.float32
    return torch.bfloat16 if falls_back else kind


def load_model(
    checkpoint: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
    adapters: AdapterRoom | None = None,
) -> Decoder:
    """Load a checkpoint folder, to compute in `compute_dtype`; opens the room of its adapters."""
    spec = read_spec(checkpoint, quantization)
    kind = compute_dtype(spec, device, dtype)
    weights = load_weights(
        WeightFiles(checkpoint, hashed=True),
        ModelShard(whole=spec),
        device=device,
        dtype=kind,
        integer_dtype=integer_dtype(device, dtype, kind),
    )
    return Decoder(spec, weights, adapters=None if adapters is None else adapters.open())
