"""Rotary position embedding as config.json describes it, and the context it makes.

`lengthwise_engine.models.frequencies` turns a `RopeSpec` into numbers.
"""

import math
from dataclasses import dataclass

from lengthwise_checkpoint.config_json import MAX_INTEGER, ConfigJson


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """All frequencies divided by `factor`."""

    factor: float
    original_context_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Long waves divided by `factor`, short ones kept, those between blended (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): a blend by rotations over the trained length.

    `attention_factor` multiplies cosines and sines, so its square scales attention scores.
    """

    factor: float
    original_context_length: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScaling:
    """Each frequency divided by one of `factors`, the fastest first (GGUF's Llama 3.1)."""

    factors: tuple[float, ...]


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | FactorScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """theta^(-2 i / head_dim) for i in [0, head_dim / 2), then scaled."""

    theta: float
    scaling: RopeScaling | None

    @property
    def attention_factor(self) -> float:
        """The factor on cosines and sines."""
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling) else 1.0


def read_rope(config: ConfigJson) -> RopeSpec:
    """The rotary part of config.json in either spelling.

    `rope_theta` beside `rope_scaling` (with `type` or `rope_type`), or both inside
    `rope_parameters` as transformers 5 writes them. Raises `UnsupportedModel` for other types.
    """
    scaling = config.object("rope_scaling")
    if not scaling.keys():
        scaling = config.object("rope_parameters")
    for key in scaling:
        if isinstance(scaling.value(key), dict):
            raise scaling.unsupported(key, "rotary parameters of a kind of layer are not supported")
    theta = scaling.number("rope_theta", config.number("rope_theta", 10_000.0), minimum=1.0)
    for part in (config, scaling):
        if part.number("partial_rotary_factor", 1.0) != 1.0:
            raise part.unsupported("partial_rotary_factor", "only 1.0 is supported")
    return RopeSpec(theta=theta, scaling=_read_scaling(config, scaling))


def read_context_length(config: ConfigJson, rope: RopeSpec) -> int:
    """The most tokens of a sequence: `max_position_embeddings`, or more where scaling stretches it.

    As vLLM and SGLang have it: YaRN and linear scaling stretch the trained length by their factor,
    and the trained length is `original_max_position_embeddings` or, where the config names none,
    `max_position_embeddings`. Llama 3's configs hold the stretched length already. transformers
    itself limits no length.
    """
    length = config.integer("max_position_embeddings")
    if isinstance(rope.scaling, LinearScaling | YarnScaling):
        length = max(length, int(rope.scaling.original_context_length * rope.scaling.factor))
    if length > MAX_INTEGER:
        raise config.error("rope_scaling", f"stretches the context to {length} tokens")
    return length


def _read_scaling(config: ConfigJson, scaling: ConfigJson) -> RopeScaling | None:
    # Some configs keep the trained length beside, not inside, the scaling; transformers prefers it.
    key = "original_max_position_embeddings"
    length = config.integer("max_position_embeddings")
    original = config.integer(key, scaling.integer(key, length))
    rope_type = scaling.text("rope_type", scaling.text("type", "default"))
    match rope_type:
        case "default":
            return None
        case "linear":
            factor = scaling.number("factor", minimum=1.0)
            return LinearScaling(factor=factor, original_context_length=original)
        case "llama3":
            return Llama3Scaling(
                factor=scaling.number("factor", minimum=1.0),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
                original_context_length=original,
            )
        case "factors":
            factors = scaling.listed("factors")
            return FactorScaling(
                factors=tuple(factors.number(each, minimum=1e-6) for each in factors)
            )
        case "yarn":
            return _read_yarn(scaling, original, length)
    message = f"type {rope_type!r} is not supported; supported are default, linear, llama3, yarn"
    raise scaling.unsupported("rope_type", message)


def _read_yarn(scaling: ConfigJson, original: int, context_length: int) -> YarnScaling:
    factor = scaling.number("factor", max(1.0, context_length / original), minimum=1.0)
    mscale = scaling.number("mscale", 0.0)
    mscale_all_dim = scaling.number("mscale_all_dim", 0.0)
    if mscale and mscale_all_dim:
        attention_factor = _yarn_scale(factor, mscale) / _yarn_scale(factor, mscale_all_dim)
    else:
        attention_factor = _yarn_scale(factor, 1.0)
    return YarnScaling(
        factor=factor,
        original_context_length=original,
        attention_factor=scaling.number("attention_factor", attention_factor),
        beta_fast=scaling.number("beta_fast", 32.0) or 32.0,
        beta_slow=scaling.number("beta_slow", 1.0) or 1.0,
        truncate=scaling.boolean("truncate", True),
    )


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0
