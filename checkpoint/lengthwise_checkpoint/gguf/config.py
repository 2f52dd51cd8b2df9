"""What the config.json of a GGUF model would say.

The architectures `llama` (of Llama, Mistral and all that is computed alike), `qwen2` and `qwen3`.
A key that changes what is computed, and that no folder of these families has, is refused.
"""

import array
import math
from collections.abc import Mapping
from typing import Any, Final

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.gguf.model import GgufModel

ARCHITECTURES: Final = ("llama", "qwen2", "qwen3")

_NEUTRAL: Final[Mapping[str, object]] = {
    "expert_count": 0,
    "attention.causal": True,
    "attention.sliding_window": 0,
    "attention.scale": 0.0,
    "attention.temperature_scale": 0.0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "embedding_scale": 1.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "use_parallel_residual": False,
}
"""Keys of an architecture, and the values with which they change nothing."""

ROPE_FACTORS: Final = "rope_freqs.weight"
"""A tensor of what each frequency is divided by: so llama.cpp stores the scaling of Llama 3.1."""


def config_values(model: GgufModel) -> dict[str, Any]:
    """Raises `UnsupportedModel` for what is not computed, `CheckpointError` for what is wrong."""
    keys = _of_architecture(model.metadata)
    embedding = _embedding(model, keys)
    heads = keys.integer("attention.head_count")
    if "attention.key_length" not in keys and embedding[1] % heads:
        message = f"{heads} heads of equal size do not make embedding_length {embedding[1]}"
        raise keys.error("attention.head_count", message)
    head_dim = keys.integer("attention.key_length", embedding[1] // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (got := keys.integer(key, head_dim)) != head_dim:
            raise keys.unsupported(key, f"got {got}, supported is the head size {head_dim}")
    return {
        "model_type": model.metadata.text("general.architecture"),
        "vocab_size": embedding[0],
        "hidden_size": embedding[1],
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(model, keys, head_dim),
        "attention_bias": "blk.0.attn_output.bias" in model.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in model.tensors,
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "dtype": _dtype(model),
        "quantization_config": {"quant_method": "gguf", "kept_bits": _kept_bits(model)},
    }


def _of_architecture(metadata: ConfigJson) -> ConfigJson:
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        message = f"{name!r} is not supported as GGUF; supported are {', '.join(ARCHITECTURES)}"
        raise metadata.unsupported("general.architecture", message)
    keys = metadata.below(f"{name}.")
    for key, neutral in _NEUTRAL.items():
        if key in keys and (got := keys.value(key)) != neutral:
            raise keys.unsupported(key, f"got {got!r}, supported is {neutral!r}")
    return keys


def _embedding(model: GgufModel, keys: ConfigJson) -> tuple[int, int]:
    """Tokens and hidden size."""
    tensor = model.tensors.get("token_embd.weight")
    hidden_size = keys.integer("embedding_length")
    if tensor is None or len(tensor.shape) != 2 or tensor.shape[1] != hidden_size:
        got = "none" if tensor is None else f"shape {tensor.shape}"
        raise CheckpointError(
            f"{model.path}: tensor token_embd.weight: got {got}, expected rows of {hidden_size}"
        )
    key = "tokenizer.ggml.tokens"
    count = len(model.metadata.texts(key))
    if count != tensor.shape[0]:
        message = f"got {count} tokens, token_embd.weight has {tensor.shape[0]} rows"
        raise model.metadata.error(key, message)
    return tensor.shape[0], hidden_size


def _dtype(model: GgufModel) -> str:
    """In which all matrices are stored, bfloat16 where they are quantised: it has the range of the
    scales, and more digits than what they scale."""
    stored = {tensor.type.name for tensor in model.tensors.values() if len(tensor.shape) > 1}
    if stored == {"F32"}:
        return "float32"
    return "float16" if stored <= {"F32", "F16"} else "bfloat16"


def _kept_bits(model: GgufModel) -> int:
    """The most that layers' matrices have of those that can be computed with as they are."""
    return max(
        (
            tensor.type.kept_bits
            for name, tensor in model.tensors.items()
            if name.startswith("blk.") and len(tensor.shape) > 1
        ),
        default=0,
    )


def _rope_scaling(model: GgufModel, keys: ConfigJson, head_dim: int) -> dict[str, Any] | None:
    """As config.json has it; of the type `factors`, which is of GGUF alone, where the file has a
    tensor of them."""
    kind = keys.text("rope.scaling.type", "none")
    if ROPE_FACTORS in model.tensors:
        if kind != "none":
            raise keys.unsupported("rope.scaling.type", f"{kind!r} beside {ROPE_FACTORS}")
        return {"rope_type": "factors", "factors": _rope_factors(model, head_dim)}
    if kind == "none":
        return None
    factor = keys.number("rope.scaling.factor", minimum=1.0)
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if "rope.scaling.original_context_length" in keys:
        original = keys.integer("rope.scaling.original_context_length")
        scaling["original_max_position_embeddings"] = original
    if kind == "yarn":
        scaling["beta_fast"] = keys.number("rope.scaling.yarn_beta_fast", 32.0)
        scaling["beta_slow"] = keys.number("rope.scaling.yarn_beta_slow", 1.0)
        # llama.cpp multiplies by it what YaRN has of itself.
        own = 1.0 + 0.1 * math.log(factor)
        scaling["attention_factor"] = own * keys.number("rope.scaling.attn_factor", 1.0)
    return scaling


def _rope_factors(model: GgufModel, head_dim: int) -> list[float]:
    (part,) = (part for part in model.parts if ROPE_FACTORS in part.tensors)
    tensor = part.tensors[ROPE_FACTORS]
    if tensor.type.name != "F32" or tensor.shape != (head_dim // 2,):
        raise CheckpointError(
            f"{part.path}: tensor {ROPE_FACTORS}: got {tensor.type.name} of shape {tensor.shape},"
            f" expected F32 of ({head_dim // 2},)"
        )
    with part.path.open("rb") as file:
        file.seek(tensor.begin)
        return list(array.array("f", file.read(tensor.end - tensor.begin)))
