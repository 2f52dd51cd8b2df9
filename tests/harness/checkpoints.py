"""Small random checkpoints of every family, for tests and benchmarks.

A test names a variant; none builds configs or weights by hand.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SMALL: Mapping[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "tie_word_embeddings": False,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "original_max_position_embeddings": 128}
CHECKPOINT_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "llama-gqa-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-mqa-head-dim": {"model_type": "llama", "num_key_value_heads": 1, "head_dim": 24},
    "llama-linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
    },
    "llama-3.1": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    },
    "llama-yarn": {"model_type": "llama", "rope_parameters": {**_YARN, "factor": 8.0}},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 37},
    "qwen2": {"model_type": "qwen2", "rope_parameters": {"rope_theta": 1e6}},
    "qwen2-some-windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 50,
        "max_window_layers": 2,
        "tie_word_embeddings": True,
    },
    "qwen2-yarn": {
        "model_type": "qwen2",
        "rope_parameters": {
            **_YARN,
            "factor": 8.0,
            "mscale": 0.8,
            "mscale_all_dim": 0.5,
            "beta_fast": 24,
            "truncate": False,
        },
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3-biases-layer-types": {
        "model_type": "qwen3",
        "head_dim": 16,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3-yarn": {
        "model_type": "qwen3",
        "head_dim": 32,
        "rope_parameters": {**_YARN, "factor": 8.0, "attention_factor": 0.9},
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "head_dim": 32,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
    },
    "qwen3_moe-some-dense": {
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "mlp_only_layers": [0],
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 50,
        "tie_word_embeddings": True,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "sliding_window": 37},
}


def config_values(variant: str, **changes: Any) -> Mapping[str, Any]:
    """What a variant's config.json says, as transformers writes it."""
    from transformers import AutoConfig

    settings = {**_SMALL, **CHECKPOINT_VARIANTS[variant], **changes}
    values: Mapping[str, Any] = AutoConfig.for_model(
        settings.pop("model_type"), **settings
    ).to_diff_dict()
    return values


def write_checkpoint(folder: Path, variant: str, **changes: Any) -> Path:
    """Write a variant's model in float32 and a tokenizer of one token per byte; return the folder.

    `changes` override values of its config.json. The weights are large enough that greedy text does
    not get stuck on one token.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

    write_toy_checkpoint(folder)
    settings = {**_SMALL, **CHECKPOINT_VARIANTS[variant], **changes}
    make_model: Callable[[Any], Any] = AutoModelForCausalLM.from_config
    model = make_model(AutoConfig.for_model(settings.pop("model_type"), **settings))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.1 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif name.endswith("embed_tokens.weight"):
                parameter.copy_(0.5 * noise)
            else:
                # Twice the scale that keeps the variance, so that layers outweigh the embedding.
                parameter.copy_(2.0 * noise / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    return folder
