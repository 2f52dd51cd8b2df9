"""GGUF files made of checkpoint folders, as llama.cpp's converter makes them, by the package gguf:
its names of tensors, its types, its writer."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, get_tensor_name_map
from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType
from gguf.quants import quantize
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = np.ndarray[Any, Any]
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
NORMAL, CONTROL = 1, 3


def write_gguf(
    folder: Path,
    path: Path,
    kind: str = "F32",
    *,
    changes: Mapping[str, Any] | None = None,
    parts: int = 1,
) -> Path:
    """A folder's model with its matrices in a type of ggml; `changes` of metadata, None: without.
    Returns the first of the `parts`."""
    config = json.loads((folder / "config.json").read_text())
    metadata = {**_metadata(config), **_vocabulary(folder), **(changes or {})}
    tensors = [*_tensors(folder, config, kind)]
    names = [path.with_stem(f"{path.stem}-{part + 1:05}-of-{parts:05}") for part in range(parts)]
    for part, name in enumerate(names if parts > 1 else [path]):
        mine = tensors[part::parts]
        own = metadata if part == 0 else {}
        if parts > 1:
            own |= {"split.no": part, "split.count": parts, "split.tensors.count": len(tensors)}
        write_file(name, own, mine)
    return names[0] if parts > 1 else path


def write_file(
    path: Path, metadata: Mapping[str, Any], tensors: list[tuple[str, Array, str]]
) -> None:
    """Each tensor with its type: bytes, or numbers where that is F32."""
    writer = GGUFWriter(path, str(metadata.get("general.architecture", "llama")))
    for key, value in metadata.items():
        if key != "general.architecture" and value is not None:
            _add(writer, key, value)
    for name, data, kind in tensors:
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _ if len(value):
            writer.add_array(key, value)


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    name = ARCHITECTURES[config["model_type"]]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"]
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] in ("linear", "yarn"):
        keys["rope.scaling.type"] = rope["rope_type"]
        keys["rope.scaling.factor"] = float(rope["factor"])
    if rope["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        if "attention_factor" in rope:
            own = 1.0 + 0.1 * math.log(rope["factor"])
            keys["rope.scaling.attn_factor"] = rope["attention_factor"] / own
    return {"general.architecture": name, **{f"{name}.{key}": keys[key] for key in keys}}


def _vocabulary(folder: Path) -> dict[str, Any]:
    """Of a byte-level tokenizer.json, padded to the model's size."""
    config = json.loads((folder / "config.json").read_text())
    stored = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {token["content"] for token in stored["added_tokens"]}
    tokens = [
        tokenizer.id_to_token(token_id) or f"[PAD{token_id}]"
        for token_id in range(config["vocab_size"])
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in stored["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }


def _tensors(
    folder: Path, config: Mapping[str, Any], kind: str
) -> Iterator[tuple[str, Array, str]]:
    architecture = ARCHITECTURES[config["model_type"]]
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config["num_hidden_layers"])
    for name, stored in load_file(folder / "model.safetensors").items():
        heads = {
            "q_proj": config["num_attention_heads"],
            "k_proj": config["num_key_value_heads"],
        }.get(name.split(".")[-2])
        rows = _interleaved(stored, heads) if heads and architecture == "llama" else stored
        block, _ = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        kept = "F32" if rows.ndim < 2 else kind if rows.shape[-1] % block == 0 else "F16"
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        yield target, quantize(rows, GGMLQuantizationType[kept]), kept
    if config["rope_parameters"]["rope_type"] == "llama3":
        yield "rope_freqs.weight", _rope_factors(config), "F32"


def _interleaved(rows: Array, heads: int) -> Array:
    """Llama's heads as llama.cpp rotates them: halves become neighbours."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _rope_factors(config: Mapping[str, Any]) -> Array:
    """Of Llama 3.1: what its frequencies are divided by."""
    rope = config["rope_parameters"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    length, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for pair in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (pair / head_dim)
        smooth = min(1.0, max(0.0, (length / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)
