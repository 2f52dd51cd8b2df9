"""Which model families are served and how each one's config.json is read.

A family is a function from config.json to its `_Traits`, and a line in `FAMILIES`. Defaults of
absent keys are those of the family's config class in transformers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.gguf.config import config_values
from lengthwise_checkpoint.gguf.model import is_gguf, read_gguf
from lengthwise_checkpoint.quantisation import read_kept_bits, read_stored
from lengthwise_checkpoint.rope import read_context_length, read_rope
from lengthwise_checkpoint.spec import DTYPES, MAX_LAYERS, DecoderSpec, ExpertsSpec


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
    norm_eps: float = 1e-6
    experts: ExpertsSpec | None = None


def read_config(folder: Path) -> ConfigJson:
    """A checkpoint's config.json; of a nested model, its `text_config` over what stands around; of
    a GGUF file, what one would say."""
    if is_gguf(folder):
        return ConfigJson(folder, config_values(read_gguf(folder)))
    config = ConfigJson.read(folder / "config.json")
    return config.overlaid_by("text_config") if "text_config" in config else config


def config_bytes(checkpoint: Path) -> bytes:
    """What the same models have the same of: config.json as it is stored, or what one would say."""
    if is_gguf(checkpoint):
        return json.dumps(config_values(read_gguf(checkpoint)), sort_keys=True).encode()
    return (checkpoint / "config.json").read_bytes()


def read_decoder_spec(config: ConfigJson) -> DecoderSpec:
    """The spec of a checkpoint of one of `FAMILIES`.

    Raises `UnsupportedModel` for what is not implemented, `CheckpointError` for values that are
    missing, malformed or contradict each other.
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
    rope = read_rope(config)
    if traits.experts is not None and "quantization_config" in config:
        message = (
            "experts are read from full checkpoints alone; use the one that is not quantised, and"
            " quantization: int8 or int4 rounds it"
        )
        raise config.unsupported("quantization_config", message)
    projections, integers = read_stored(config)
    return DecoderSpec(
        model_type=model_type,
        context_length=read_context_length(config, rope),
        vocab_size=config.integer("vocab_size"),
        num_layers=_num_layers(config),
        num_kv_heads=traits.num_kv_heads,
        head_dim=traits.head_dim,
        dtype=read_dtype(config),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_heads=num_heads,
        norm_eps=config.number("rms_norm_eps", traits.norm_eps, minimum=0.0),
        rope=rope,
        windows=traits.windows,
        qkv_bias=traits.qkv_bias,
        output_bias=traits.output_bias,
        mlp_bias=traits.mlp_bias,
        qk_norm=traits.qk_norm,
        tied_embeddings=config.boolean("tie_word_embeddings", False),
        projections=projections,
        integers=integers,
        kept_bits=read_kept_bits(config),
        experts=traits.experts,
    )


def _llama(config: ConfigJson) -> _Traits:
    attention_bias = config.boolean("attention_bias", False)
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", config.integer("num_attention_heads")),
        head_dim=_head_dim(config),
        windows=(None,) * _num_layers(config),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=config.boolean("mlp_bias", False),
    )


def _mistral(config: ConfigJson) -> _Traits:
    # Only here null (no window) differs from absent (the 4,096 of the first release).
    null = "sliding_window" in config.keys() and "sliding_window" not in config  # noqa: SIM118
    window = None if null else config.integer("sliding_window", 4096)
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", 8),
        head_dim=_head_dim(config),
        windows=(window,) * _num_layers(config),
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


def _qwen3_moe(config: ConfigJson) -> _Traits:
    attention_bias = config.boolean("attention_bias", False)
    slides = config.boolean("use_sliding_window", False)
    window = config.integer("sliding_window", 4096) if slides else None
    num_layers, step = _num_layers(config), config.integer("decoder_sparse_step", 1)
    dense = config.token_ids("mlp_only_layers")
    routed = tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers))
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", 4),
        head_dim=_head_dim(config),
        windows=(window,) * num_layers,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        qk_norm=True,
        experts=_experts(
            config,
            ExpertsSpec(
                count=config.integer("num_experts", config.integer("num_local_experts", 128)),
                num_chosen=config.integer("num_experts_per_tok", 8),
                intermediate_size=config.integer("moe_intermediate_size", 768),
                is_normalised=config.boolean("norm_topk_prob", False),
                routed=routed,
            ),
        ),
    )


def _mixtral(config: ConfigJson) -> _Traits:
    window = config.integer("sliding_window") if "sliding_window" in config else None
    num_layers = _num_layers(config)
    return _Traits(
        num_kv_heads=config.integer("num_key_value_heads", 8),
        head_dim=_head_dim(config),
        windows=(window,) * num_layers,
        norm_eps=1e-5,
        experts=_experts(
            config,
            ExpertsSpec(
                count=config.integer("num_local_experts", config.integer("num_experts", 8)),
                num_chosen=config.integer("num_experts_per_tok", 2),
                intermediate_size=config.integer("intermediate_size"),
                is_normalised=True,
                routed=(True,) * num_layers,
            ),
        ),
    )


FAMILIES: Final[Mapping[str, Callable[[ConfigJson], _Traits]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
}


def _experts(config: ConfigJson, experts: ExpertsSpec) -> ExpertsSpec | None:
    """None where no layer has any."""
    if experts.num_chosen > experts.count:
        message = f"{experts.num_chosen} are more than the {experts.count} experts there are"
        raise config.error("num_experts_per_tok", message)
    return experts if any(experts.routed) else None


def _num_layers(config: ConfigJson) -> int:
    return config.integer("num_hidden_layers", maximum=MAX_LAYERS)


def _head_dim(config: ConfigJson) -> int:
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if "head_dim" not in config and hidden_size % num_heads:
        message = f"{hidden_size} is not a multiple of num_attention_heads {num_heads}"
        raise config.error("hidden_size", message)
    return config.integer("head_dim", hidden_size // num_heads)


def _qwen_windows(config: ConfigJson) -> tuple[int | None, ...]:
    """Which layers slide: `layer_types` if given, else those from `max_window_layers` on."""
    num_layers = _num_layers(config)
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


def read_dtype(config: ConfigJson) -> str:
    """`dtype`, or `torch_dtype` as transformers 4 wrote it."""
    dtype = config.text("dtype", config.text("torch_dtype", "float32"))
    if dtype not in DTYPES:
        message = f"{dtype!r} is not supported; supported are {', '.join(DTYPES)}"
        raise config.unsupported("dtype", message)
    return dtype
