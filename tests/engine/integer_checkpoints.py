"""Weights rounded to integers by hand, stored as GPTQ, AWQ and compressed-tensors say, and what
transformers computes with them.

Nothing of the engine or its kernels.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


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


def reference_model(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """transformers' model of a full checkpoint, in float32, with the projections that `change`
    makes of their names and weights."""
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = change(f"{name}.weight", module.weight.data)
    return model


@dataclass(frozen=True)
class Format:
    """How `store` writes projections; `group` None: a scale for each output."""

    kind: str
    bits: int = 4
    group: int | None = 32
    symmetric: bool = False
    act_order: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the quantization_config."""


def store(folder: Path, how: Format) -> dict[str, torch.Tensor]:
    """Replace the projections of a checkpoint by integers; returns what they stand for."""
    stand_for: dict[str, torch.Tensor] = {}
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(5)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            tensors[name] = tensor
            continue
        size = tensor.shape[1]
        groups = torch.arange(size) // (how.group or size)
        if how.act_order:
            # Projections of the same inputs are ordered alike.
            generator.manual_seed(size)
            groups = groups[torch.randperm(size, generator=generator)]
        given = _rounded(tensor, groups, how)
        stand_for[name] = (given.values - given.zeros[:, groups]) * given.scales[:, groups]
        base = name.removesuffix("weight")
        for key, stored in _WRITE[how.kind](given, how).items():
            tensors[base + key] = stored.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**_CONFIG[how.kind](how), **how.changes}
    (folder / "config.json").write_text(json.dumps(config))
    return stand_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """Values from 0 on, [out, in]; scales (of 16 bits) and zeros [out, groups]; inputs' groups."""

    values: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    groups: torch.Tensor


def _rounded(weight: torch.Tensor, groups: torch.Tensor, how: Format) -> Rounded:
    top = 2**how.bits - 1
    scales, zeros = [], []
    for group in range(int(groups.max()) + 1):
        piece = weight[:, groups == group]
        if how.symmetric:
            scales.append(piece.abs().amax(1) / (top // 2))
            zeros.append(torch.full((len(weight),), float(top // 2 + 1)))
        else:
            low, high = piece.amin(1).clamp(max=0), piece.amax(1).clamp(min=0)
            scales.append((high - low) / top)
            zeros.append((-low / scales[-1]).round().clamp(1, top))
    scale, zero = torch.stack(scales, 1).half().float(), torch.stack(zeros, 1)
    values = (weight / scale[:, groups] + zero[:, groups]).round().clamp(0, top)
    return Rounded(values=values, scales=scale, zeros=zero, groups=groups)


def _words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows of numbers as 32-bit words, the first number in the lowest bits."""
    per_word = 32 // bits
    missing = -values.shape[1] % per_word
    padded = torch.nn.functional.pad(values, (0, missing)).long()
    words = sum(padded[:, place::per_word] << bits * place for place in range(per_word))
    assert isinstance(words, torch.Tensor)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _gptq(given: Rounded, how: Format) -> dict[str, torch.Tensor]:
    lessened = 0 if how.changes.get("checkpoint_format") == "gptq_v2" else 1
    return {
        "qweight": _words(given.values, how.bits).T,
        "qzeros": _words(given.zeros.T - lessened, how.bits),
        "scales": given.scales.T.half(),
        "g_idx": given.groups.to(torch.int32),
    }


def _awq(given: Rounded, how: Format) -> dict[str, torch.Tensor]:
    def words(rows: torch.Tensor) -> torch.Tensor:
        place = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
        return _words(rows.reshape(len(rows), -1, 8)[..., place].flatten(1), 4)

    return {
        "qweight": words(given.values.T),
        "qzeros": words(given.zeros.T),
        "scales": given.scales.T.half(),
    }


def _packed(given: Rounded, how: Format) -> dict[str, torch.Tensor]:
    found = {
        "weight_packed": _words(given.values, how.bits),
        "weight_scale": given.scales.bfloat16()
        if how.changes.get("bfloat16")
        else given.scales.half(),
        "weight_shape": torch.tensor(given.values.shape),
    }
    if not how.symmetric:
        found["weight_zero_point"] = _words(given.zeros.T, how.bits).T
    if how.act_order:
        found["weight_g_idx"] = given.groups.to(torch.int32)
    return found


def _int8(given: Rounded, how: Format) -> dict[str, torch.Tensor]:
    found = {"weight": (given.values - 128).to(torch.int8), "weight_scale": given.scales.half()}
    if not how.symmetric:
        found["weight_zero_point"] = (given.zeros - 128).to(torch.int8)
    return found


def _compressed_config(how: Format) -> dict[str, Any]:
    weights = {
        "num_bits": how.bits,
        "type": "int",
        "symmetric": how.symmetric,
        "group_size": how.group,
        "strategy": "group" if how.group else "channel",
        "block_structure": None,
        "dynamic": False,
        "actorder": "group" if how.act_order else None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    group = {
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if how.kind == "int8" else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def _gptq_config(how: Format) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "bits": how.bits,
        "group_size": how.group or -1,
        "desc_act": how.act_order,
        "sym": how.symmetric,
        "damp_percent": 0.01,
        "true_sequential": True,
    }


def _awq_config(how: Format) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "bits": how.bits,
        "group_size": how.group or -1,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }


_WRITE: Mapping[str, Callable[..., dict[str, torch.Tensor]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "packed": _packed,
    "int8": _int8,
}
_CONFIG: Mapping[str, Callable[[Format], dict[str, Any]]] = {
    "gptq": _gptq_config,
    "awq": _awq_config,
    "packed": _compressed_config,
    "int8": _compressed_config,
}
