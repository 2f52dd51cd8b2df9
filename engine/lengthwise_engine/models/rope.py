"""Rotary position frequencies and the ways checkpoints stretch them beyond their training length.

The rule: the numbers equal those of `transformers.modeling_rope_utils` to the last bit of float32,
because a slightly different frequency is a different model at long positions.
"""

import math
from dataclasses import dataclass

import torch

from lengthwise_engine.models.config_json import ConfigJson


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """All frequencies divided by `factor`."""

    factor: float


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
class RopeSpec:
    """theta^(-2 i / head_dim) for i in [0, head_dim / 2), then scaled."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None

    @property
    def attention_factor(self) -> float:
        """The factor on cosines and sines."""
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling) else 1.0

    def frequencies(self, head_dim: int) -> torch.Tensor:
        """Radians per position of each of the head_dim / 2 pairs, float32."""
        wavelengths = self.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
        match self.scaling:
            case None:
                return 1.0 / wavelengths
            case LinearScaling(factor=factor):
                return 1.0 / wavelengths / factor
            case Llama3Scaling():
                return _llama3(1.0 / wavelengths, self.scaling)
            case YarnScaling():
                return _yarn(wavelengths, self.scaling, self.theta, head_dim)


def read_rope(config: ConfigJson, context_length: int) -> RopeSpec:
    """The rotary part of config.json in either spelling.

    `rope_theta` beside `rope_scaling` (with `type` or `rope_type`), or both inside
    `rope_parameters` as transformers 5 writes them. Raises `UnsupportedModel` for other types.
    """
    scaling = config.object("rope_scaling")
    if not scaling.keys():
        scaling = config.object("rope_parameters")
    theta = scaling.number("rope_theta", config.number("rope_theta", 10_000.0))
    for part in (config, scaling):
        if part.number("partial_rotary_factor", 1.0) != 1.0:
            raise part.unsupported("partial_rotary_factor", "only 1.0 is supported")
    rope_type = scaling.text("rope_type", scaling.text("type", "default"))
    # Some configs keep the trained length beside, not inside, the scaling; transformers prefers it.
    original = config.integer(
        "original_max_position_embeddings",
        scaling.integer("original_max_position_embeddings", context_length),
    )
    match rope_type:
        case "default":
            return RopeSpec(theta=theta, scaling=None)
        case "linear":
            return RopeSpec(theta=theta, scaling=LinearScaling(factor=scaling.number("factor")))
        case "llama3":
            return RopeSpec(
                theta=theta,
                scaling=Llama3Scaling(
                    factor=scaling.number("factor"),
                    low_freq_factor=scaling.number("low_freq_factor"),
                    high_freq_factor=scaling.number("high_freq_factor"),
                    original_context_length=original,
                ),
            )
        case "yarn":
            return RopeSpec(theta=theta, scaling=_read_yarn(scaling, original, context_length))
    message = f"type {rope_type!r} is not supported; supported are default, linear, llama3, yarn"
    raise scaling.unsupported("rope_type", message)


def _read_yarn(scaling: ConfigJson, original: int, context_length: int) -> YarnScaling:
    factor = scaling.number("factor", context_length / original)
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


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    length, low, high = (
        scaling.original_context_length,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
    )
    wavelengths = 2 * math.pi / frequencies
    scaled = torch.where(wavelengths > length / low, frequencies / scaling.factor, frequencies)
    smooth = (length / wavelengths - low) / (high - low)
    blended = (1 - smooth) * scaled / scaling.factor + smooth * scaled
    between = ~(wavelengths < length / high) * ~(wavelengths > length / low)
    return torch.where(between, blended, scaled)


def _yarn(
    wavelengths: torch.Tensor, scaling: YarnScaling, theta: float, head_dim: int
) -> torch.Tensor:
    def pair_with_rotations(rotations: float) -> float:
        length = scaling.original_context_length
        return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with_rotations(scaling.beta_fast), pair_with_rotations(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = torch.clamp((torch.arange(head_dim // 2).float() - low) / (high - low), 0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept
