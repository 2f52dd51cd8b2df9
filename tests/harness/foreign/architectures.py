"""Small random checkpoints of architectures that transformers computes, one or more of each.

Beside what every one of them has (`_SIZES`) a row holds the sizes that its config calls otherwise,
and whatever makes its peculiarities show: windows shorter than the prompts, soft caps low enough to
bend scores, experts that tokens share.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

_SIZES: Final[Mapping[str, Any]] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
_ALTERNATING: Final = ["sliding_attention", "full_attention"]
_ROPE: Final = {"rope_type": "default", "rope_theta": 10000.0}
_EXPERTS: Final = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT: Final = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
_DEEPSEEK: Final = {
    **_LATENT,
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}

ARCHITECTURES: Final[Mapping[str, Mapping[str, Any]]] = {
    "apertus": {"rope_parameters": _ROPE},
    "arcee": {},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"sliding_window": 19, "layer_types": _ALTERNATING, "head_dim": 12},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
    "deepseek_v3": _DEEPSEEK,
    "dots1": {
        **_EXPERTS,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "head_dim": 12,
    },
    "ernie4_5": {"head_dim": 16},
    "exaone4": {"sliding_window": 19, "layer_types": _ALTERNATING},
    "gemma": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 19,
        "layer_types": _ALTERNATING,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 20,
    },
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 19,
        "layer_types": _ALTERNATING,
        "query_pre_attn_scalar": 20,
    },
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "glm4_moe": {**_EXPERTS, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "head_dim": 12},
    "gpt2": {"n_inner": 64},
    "gpt_bigcode": {"n_inner": 64, "multi_query": True, "tie_word_embeddings": False},
    "gpt_neox": {},
    "gpt_oss": {
        "head_dim": 16,
        "sliding_window": 19,
        "layer_types": _ALTERNATING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": _ROPE,
    },
    "granite": {"attention_multiplier": 0.3, "logits_scaling": 2.0, "residual_multiplier": 0.7},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.3},
    "helium": {"head_dim": 12},
    "hunyuan_v1_dense": {"head_dim": 12},
    "minicpm3": {**_LATENT, "dim_model_base": 24},
    "ministral": {"sliding_window": 19, "layer_types": _ALTERNATING, "head_dim": 12},
    "ministral3": {"head_dim": 12},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {"head_dim": 12},
    "olmo": {"clip_qkv": 2.0},
    "olmo2": {},
    "olmo3": {"sliding_window": 19, "layer_types": _ALTERNATING},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48},
    "persimmon": {"num_key_value_heads": 4},
    "phi": {},
    "phi3": {},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4, "head_dim": 16},
    "seed_oss": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {"partial_rotary_factor": 0.5},
    "starcoder2": {"sliding_window": 19},
}


def write_foreign_checkpoint(folder: Path, architecture: str, **changes: Any) -> Path:
    """A model in float32, without a tokenizer; returns the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**_SIZES, **ARCHITECTURES[architecture], **changes}
    make_model: Any = AutoModelForCausalLM.from_config
    model = make_model(AutoConfig.for_model(architecture, **settings))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(base + 0.2 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name:
                parameter.copy_(0.5 * noise)
            else:
                # Twice the scale that keeps the variance, so that layers outweigh the embedding.
                parameter.copy_(2.0 * noise / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return folder
