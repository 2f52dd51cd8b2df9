"""Length classes: prompts bound by memory and launches, and prompts bound by compute.

A request is classed by its *residual* tokens, those still to be computed, never by its
whole prompt: a long conversation of which all but the last turn is cached behaves like a short one.
"""

from typing import Literal

LengthClass = Literal["short", "long"]

LENGTH_CLASSES: tuple[LengthClass, ...] = ("short", "long")

# Where prefill turns from memory-bound to compute-bound. Published measurements (LAPS) put it at
# 150 to 512 tokens for 7B to 32B models on A100, H100 and H200, and near 256 on H200.
DEFAULT_SHORT_TOKENS = 256


def length_class(num_tokens: int, boundary: int = DEFAULT_SHORT_TOKENS) -> LengthClass:
    """The class of `num_tokens` residual tokens; `boundary` itself is still short."""
    return "short" if num_tokens <= boundary else "long"
