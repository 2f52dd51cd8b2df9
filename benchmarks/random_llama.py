"""A small Llama with random weights, on disk: enough to measure times with."""

from pathlib import Path
from typing import Any

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint


def random_llama(
    folder: Path, *, hidden: int, layers: int, dtype: str = "float32", **config: int
) -> Path:
    """Heads of 64, 4 query heads to a KV head; `config` overrides values of its config.json.

    `dtype` is the type its weights are stored in. It has the toy's tokenizer of one token per
    byte. Needs transformers.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_toy_checkpoint(folder)
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 256),
        "max_position_embeddings": 4096,
        **config,
    }
    model = LlamaForCausalLM(LlamaConfig(**values)).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder
