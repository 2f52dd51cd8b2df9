"""What a checkpoint's config.json says, as values that cannot be half read.

The rule: after a spec exists nobody looks into config.json again, and nothing in a spec depends on
the spelling the checkpoint used.
"""

from dataclasses import dataclass
from typing import Literal

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.rope import RopeSpec

Projections = Literal["full", "fp8", "stored fp8"]
"""How the matrices of layers are computed: in the model's type; in 8-bit floating point, rounded
when they are loaded; or in 8-bit floating point as the checkpoint stores them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What every model tells the rest of the system.

    `context_length` is the most tokens a sequence may have, prompt and output together. `dtype` is
    the one the checkpoint declares ("float32", "bfloat16" or "float16").
    """

    model_type: str
    context_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str

    def kv_layout(self, *, block_size: int, dtype: str) -> KVLayout:
        """The layout of this model's KV cache when it computes in `dtype`."""
        return KVLayout(
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            block_size=block_size,
            dtype=dtype,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec(ModelSpec):
    """A Llama-like decoder: everything in which the supported families differ.

    `windows` has one entry per layer: how many positions back a query sees (itself included), or
    None for all. `qkv_bias`, `output_bias` and `mlp_bias` say which projections have biases;
    `qk_norm` that queries and keys are normalised per head before rotation.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    norm_eps: float
    rope: RopeSpec
    windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied_embeddings: bool
    projections: Projections = "full"
