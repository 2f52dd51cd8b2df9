"""Whose code computes a checkpoint, ours or that of transformers, and what neither can.

Decided from config.json alone, before any weights are fetched and without transformers, which
then builds the model and tells the rest (`lengthwise_engine.models.foreign`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_checkpoint.families import FAMILIES, read_decoder_spec
from lengthwise_checkpoint.rope import read_context_length, read_rope
from lengthwise_checkpoint.toy import MODEL_TYPE as TOY
from lengthwise_checkpoint.toy import read_toy_spec

ModelBackend = Literal["auto", "native", "transformers"]
"""What is asked for; auto: native where the family is one of `FAMILIES` and nothing in its config
is beyond it."""

_LENGTHS: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
"""How architectures spell the trained length."""

_FALCON_LENGTH: Final = 2048
"""Its configs do not name it."""

_LANGUAGE_MODELS: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_ATTENTION: Final = ("full_attention", "sliding_attention", "attention", "global", "local")
"""Kinds of layers that keep keys and values, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What requests are checked against; `context_length` is of prompt and output together."""

    context_length: int
    vocab_size: int


def read_limits(config: ConfigJson) -> ModelLimits:
    """Of any checkpoint that might be served. Errors: those of `is_native`."""
    if config.text("model_type") == TOY:
        toy = read_toy_spec(config)
        return ModelLimits(context_length=toy.context_length, vocab_size=toy.vocab_size)
    if is_native(config):
        spec = read_decoder_spec(config)
        return ModelLimits(context_length=spec.context_length, vocab_size=spec.vocab_size)
    return read_foreign_limits(config)


def is_native(config: ConfigJson, backend: ModelBackend = "auto") -> bool:
    """Whether a checkpoint is computed by our own code.

    Raises `UnsupportedModel` where it cannot be by `backend`, `CheckpointError` for a config of
    ours that contradicts itself.
    """
    if backend == "native" or (backend == "auto" and config.text("model_type") in FAMILIES):
        try:
            read_decoder_spec(config)
        except UnsupportedModel:
            if backend == "native" or "quantization_config" in config:
                raise
        else:
            return True
    _refuse(config)
    return False


def read_foreign_limits(config: ConfigJson) -> ModelLimits:
    """Of an architecture that is not ours."""
    named = [key for key in _LENGTHS if key in config]
    length = config.integer(named[0]) if named else _FALCON_LENGTH
    return ModelLimits(
        context_length=_stretched(config, length), vocab_size=config.integer("vocab_size")
    )


def _stretched(config: ConfigJson, length: int) -> int:
    """By rotary scaling of a kind that we know; any other leaves it as it is."""
    if "max_position_embeddings" not in config:
        return length
    try:
        return read_context_length(config, read_rope(config))
    except UnsupportedModel:
        return length


def _refuse(config: ConfigJson) -> None:
    """Raises `UnsupportedModel` for what no code serves, with the reason."""
    for key, refusal in _REFUSALS:
        if reason := refusal(config):
            raise config.unsupported(key, reason)


def _no_language_model(config: ConfigJson) -> str:
    names = config.texts("architectures")
    if not names or any(name.endswith(_LANGUAGE_MODELS) for name in names):
        return ""
    return f"got {names}, expected one that ends with {', '.join(_LANGUAGE_MODELS)}"


def _encoder_decoder(config: ConfigJson) -> str:
    if not config.boolean("is_encoder_decoder", False):
        return ""
    return "encoder-decoders are not served: only decoders keep all they know in the KV cache"


def _layers_with_state(config: ConfigJson) -> str:
    others = sorted(set(config.texts("layer_types")) - set(_ATTENTION))
    if not others:
        return ""
    return (
        f"layers of kind {', '.join(others)} are not served: they keep state that the KV cache has"
        " no room for"
    )


def _quantised(config: ConfigJson) -> str:
    if "quantization_config" not in config:
        return ""
    method = config.object("quantization_config").text("quant_method", "none")
    return (
        f"{config.text('model_type')!r} is computed by transformers' code, which is served with"
        f" full weights alone, got {method!r}; use the checkpoint that is not quantised"
    )


_REFUSALS: Final[tuple[tuple[str, Callable[[ConfigJson], str]], ...]] = (
    ("is_encoder_decoder", _encoder_decoder),
    ("architectures", _no_language_model),
    ("layer_types", _layers_with_state),
    ("quantization_config", _quantised),
)
