"""The frequencies of a rotary position embedding.

They equal those of `transformers.modeling_rope_utils` to the last bit of float32: a slightly
different frequency is a different model at long positions.
"""

import math

import torch

from lengthwise_checkpoint.rope import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    RopeSpec,
    YarnScaling,
)


def rope_frequencies(rope: RopeSpec, head_dim: int) -> torch.Tensor:
    """Radians per position of each of the head_dim / 2 pairs, float32."""
    wavelengths = rope.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    match rope.scaling:
        case None:
            return 1.0 / wavelengths
        case LinearScaling(factor=factor):
            return 1.0 / wavelengths / factor
        case FactorScaling(factors=factors):
            return 1.0 / wavelengths / torch.tensor(factors)
        case Llama3Scaling():
            return _llama3(1.0 / wavelengths, rope.scaling)
        case YarnScaling():
            return _yarn(wavelengths, rope.scaling, rope.theta, head_dim)


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
