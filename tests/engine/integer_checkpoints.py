"""Weights rounded to integers by hand, and what transformers computes with them.

Nothing of the engine or its kernels.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def to_int8(weight: torch.Tensor) -> torch.Tensor:
    """What a weight [out, in] becomes with 8 bits and a scale for each output."""
    scale = weight.abs().max(dim=1, keepdim=True).values / 127
    return (weight / scale).round() * scale


def to_int4(weight: torch.Tensor, group: int = 32) -> torch.Tensor:
    """With 4 bits, and a scale and a zero for each group of inputs."""
    columns = []
    for piece in weight.split(group, dim=1):  # type: ignore[no-untyped-call]
        low = piece.min(dim=1, keepdim=True).values.clamp(max=0)
        high = piece.max(dim=1, keepdim=True).values.clamp(min=0)
        scale = (high - low) / 15
        zero = (-low / scale).round()
        columns.append(((piece / scale + zero).round().clamp(0, 15) - zero) * scale)
    return torch.cat(columns, 1)


ROUND: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {"int8": to_int8, "int4": to_int4}


def reference_model(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """transformers' model of a full checkpoint, in float32, with changed projections."""
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = change(module.weight.data)
    return model
