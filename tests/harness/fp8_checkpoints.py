"""Checkpoints as llm-compressor writes them for W8A8 FP8, made of full ones, and what they compute.

Everything here is arithmetic on tensors by hand; nothing of the engine or its kernels.
"""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_SIDE = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
QUANTIZATION_CONFIG: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_SIDE, "strategy": "channel", "dynamic": False, "observer": "minmax"},
            "input_activations": {**_SIDE, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
}


def quantization_config(**changes: Any) -> dict[str, Any]:
    """QUANTIZATION_CONFIG with values under dotted keys, "group.weights.strategy", replaced."""
    config = copy.deepcopy(dict(QUANTIZATION_CONFIG))
    for key, value in changes.items():
        target = config
        *path, last = key.replace("group.", "config_groups.group_0.").split(".")
        for step in path:
            target = target[step]
        target[last] = value
    return config


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 numbers and the scale of each row, [rows, 1]."""
    scale = x.abs().amax(-1, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn), scale


def dequantised(x: torch.Tensor) -> torch.Tensor:
    """The numbers that the rounded ones stand for."""
    values, scale = rounded(x)
    return values.float() * scale


def store_as_fp8(folder: Path) -> None:
    """Replace the projections of a checkpoint by rounded ones with scales beside them."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("proj.weight"):
            tensors[name], tensors[f"{name}_scale"] = rounded(tensor)
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization_config()
    (folder / "config.json").write_text(json.dumps(config))


def scale_projections(folder: Path, factor: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            tensor.mul_(factor)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rounding_model(folder: Path) -> Any:
    """transformers' model of a full checkpoint in float32 that rounds weights and inputs of its
    projections to what their 8-bit numbers stand for."""
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = dequantised(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (dequantised(inputs[0]),))
        elif name.endswith(".experts"):
            module.forward = _RoundingExperts(module)
    return model


class _RoundingExperts:
    """The experts of one layer of transformers' model."""

    def __init__(self, module: Any) -> None:
        self._gate_up = [dequantised(weight) for weight in module.gate_up_proj.data]
        self._down = [dequantised(weight) for weight in module.down_proj.data]

    def __call__(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(map(self._row, dequantised(x), chosen, shares)))

    def _row(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for expert, share in zip(chosen.tolist(), shares, strict=True):
            gate, up = (self._gate_up[expert] @ x).chunk(2)
            inner = dequantised((torch.nn.functional.silu(gate) * up).unsqueeze(0))[0]
            total += share * (self._down[expert] @ inner)
        return total
