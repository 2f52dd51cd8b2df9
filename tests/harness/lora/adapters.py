"""LoRA adapters as PEFT writes them, and the models that they make: transformers' with
W + scaling B A for each W, which is what PEFT's `merge_and_unload` computes."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

PREFIX = "base_model.model."


def write_adapter(
    folder: Path,
    checkpoint: Path,
    *,
    seed: int,
    rank: int = 4,
    targets: Sequence[str] = ALL_TARGETS,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """A random adapter of a checkpoint, strong enough to change its text; `config` joins
    adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        if any(name.endswith(f"{target}.weight") for target in targets):
            outputs, inputs = weight.shape
            path = PREFIX + name.removesuffix(".weight")
            a = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            b = torch.randn(outputs, rank, generator=generator) / rank**0.5
            tensors[f"{path}.lora_A.weight"] = a.to(dtype)
            tensors[f"{path}.lora_B.weight"] = b.to(dtype)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "anything",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.05,
        "target_modules": list(targets),
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "inference_mode": True,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def merged(checkpoint: Path, adapter: Path | None) -> Any:
    """transformers' model in float32. No code of ours computes here."""
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model = load(checkpoint, dtype=torch.float32).eval()
    if adapter is None:
        return model
    config = json.loads((adapter / "adapter_config.json").read_text())
    rank, alpha = config["r"], config["lora_alpha"]
    scaling = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
    tensors = load_file(adapter / "adapter_model.safetensors")
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, a in tensors.items():
            if name.endswith("lora_A.weight"):
                b = tensors[name.replace("lora_A", "lora_B")]
                path = name.removeprefix(PREFIX).replace(".lora_A", "")
                weights[path] += scaling * b.float() @ a.float()
    return model


@torch.inference_mode()
def best_tokens(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """What a model of transformers continues a prompt with, greedily, without a cache."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(int(model(torch.tensor([token_ids])).logits[0, -1].argmax()))
    return token_ids[len(prompt) :]
