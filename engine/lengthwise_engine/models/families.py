"""Which model families are served and how each one's config.json is read.

The rule: a family is a function from config.json to a `DecoderSpec`, and a line in `FAMILIES`.
Defaults of absent keys are those of the family's config class in transformers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from lengthwise_engine.kv.layout import ITEM_BYTES
from lengthwise_engine.models.config_json import ConfigJson
from lengthwise_engine.models.generation import GenerationDefaults
from lengthwise_engine.models.quantisation import stores_fp8
from lengthwise_engine.models.rope import YarnScaling, read_rope
from lengthwise_engine.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What a family fixes or reads in its own way."""

    num_kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


def read_decoder_spec(config: ConfigJson, generation: GenerationDefaults) -> DecoderSpec:
    """The spec of a checkpoint of one of `FAMILIES`.

    Raises `UnsupportedModel` for what this engine does not implement, `CheckpointError` for values
    that are missing, malformed or contradict each other.
    """
    model_type = config.text("model_type")
    if model_type not in FAMILIES:
        message = f"{model_type!r} is not supported; supported are {', '.join(FAMILIES)}"
        raise config.unsupported("model_type", message)
    _refuse_unsupported(config)
    traits = FAMILIES[model_type](config)
    num_heads = config.integer("num_attention_heads")
    if num_heads % traits.num_kv_heads:
        message = f"{num_heads} is not a multiple of num_key_value_heads {traits.num_kv_heads}"
        raise config.error("num_attention_heads", message)
    if traits.head_dim % 2:
        raise config.error(
            "head_dim", f"rotary embedding needs an even size, got {traits.head_dim}"
        )
    context_length = config.integer("max_position_embeddings")
    rope = read_rope(config, context_length)
    if isinstance(rope.scaling, YarnScaling):
        # Qwen's cards tell users to add YaRN without raising max_position_embeddings.
        stretched = int(rope.scaling.original_context_length * rope.scaling.factor)
        context_length = max(context_length, stretched)
    return DecoderSpec(
        model_type=model_type,
        context_length=context_length,
        vocab_size=config.integer("vocab_size"),
        eos_token_ids=generation.eos_token_ids or config.integers("eos_token_id"),
        num_layers=config.integer("num_hidden_layers"),
        num_kv_heads=traits.num_kv_heads,
        head_dim=traits.head_dim,
        dtype=_dtype(config),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_heads=num_heads,
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope=rope,
        windows=traits.windows,
        qkv_bias=traits.qkv_bias,
        output_bias=traits.output_bias,
        mlp_bias=traits.mlp_bias,
        qk_norm=traits.qk_norm,
        tied_embeddings=config.boolean("tie_word_embeddings", False),
        projections="stored fp8" if stores_fp8(config) else "full",
    )


def _llama(config: ConfigJson) -> _Traits:
    attention_bias = config.boolean("attention_bias", False)
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", config.integer("num_attention_heads")),
        head_dim=_head_dim(config),
        windows=(None,) * config.integer("num_hidden_layers"),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=config.boolean("mlp_bias", False),
    )


def _mistral(config: ConfigJson) -> _Traits:
    # Mistral alone tells null (no window) from absent (the 4,096 of its first release).
    null = "sliding_window" in config.keys() and "sliding_window" not in config  # noqa: SIM118
    window = None if null else config.integer("sliding_window", 4096)
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", 8),
        head_dim=_head_dim(config),
        windows=(window,) * config.integer("num_hidden_layers"),
    )


def _qwen2(config: ConfigJson) -> _Traits:
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", config.integer("num_attention_heads")),
        head_dim=_head_dim(config),
        windows=_qwen_windows(config),
        qkv_bias=True,
    )


def _qwen3(config: ConfigJson) -> _Traits:
    attention_bias = config.boolean("attention_bias", False)
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", config.integer("num_attention_heads")),
        head_dim=config.integer("head_dim", 128),
        windows=_qwen_windows(config),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        qk_norm=True,
    )


FAMILIES: Final[Mapping[str, Callable[[ConfigJson], _Traits]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}


def _head_dim(config: ConfigJson) -> int:
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if "head_dim" not in config and hidden_size % num_heads:
        message = f"{hidden_size} is not a multiple of num_attention_heads {num_heads}"
        raise config.error("hidden_size", message)
    return config.integer("head_dim", hidden_size // num_heads)


def _qwen_windows(config: ConfigJson) -> tuple[int | None, ...]:
    """Which layers slide: `layer_types` if given, else those from `max_window_layers` on."""
    num_layers = config.integer("num_hidden_layers")
    slides = config.boolean("use_sliding_window", False)
    window = config.integer("sliding_window", 4096) if slides else None
    first_sliding = config.integer("max_window_layers", 28, minimum=0)
    default = [
        "sliding_attention" if slides and layer >= first_sliding else "full_attention"
        for layer in range(num_layers)
    ]
    layer_types = config.texts("layer_types") or default
    if len(layer_types) != num_layers:
        message = f"expected one entry for each of {num_layers} layers, got {len(layer_types)}"
        raise config.error("layer_types", message)
    if unknown := set(layer_types) - {"full_attention", "sliding_attention"}:
        message = f"{sorted(unknown)}: only full_attention and sliding_attention are supported"
        raise config.unsupported("layer_types", message)
    if "sliding_attention" in layer_types and window is None:
        raise config.error("layer_types", "has sliding_attention, but use_sliding_window is false")
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


def _refuse_unsupported(config: ConfigJson) -> None:
    architectures = config.texts("architectures")
    if architectures and not any(name.endswith("ForCausalLM") for name in architectures):
        message = f"got {architectures}, only ...ForCausalLM is supported"
        raise config.unsupported("architectures", message)
    if (activation := config.text("hidden_act", "silu")) != "silu":
        message = f"{activation!r} is not supported, only 'silu'"
        raise config.unsupported("hidden_act", message)


def _dtype(config: ConfigJson) -> str:
    """`dtype`, or `torch_dtype` as transformers 4 wrote it."""
    dtype = config.text("dtype", config.text("torch_dtype", "float32"))
    if dtype not in ITEM_BYTES:
        message = f"{dtype!r} is not supported; supported are {', '.join(ITEM_BYTES)}"
        raise config.unsupported("dtype", message)
    return dtype
