"""What config.json says of a model, as values; nothing in them depends on the spelling the
checkpoint used.
"""

from dataclasses import dataclass
from typing import Final, Literal

from lengthwise_checkpoint.integer_schemes import IntegerScheme
from lengthwise_checkpoint.rope import RopeSpec

Projections = Literal["full", "fp8", "int8", "int4", "stored fp8", "stored integers"]
"""How the matrices of layers are computed: in the model's type; rounded when they are loaded, to
8-bit floating point or to integers; or as the checkpoint stores them, in
8-bit floating point or as integers."""

DTYPES: Final = ("float32", "bfloat16", "float16")

MAX_LAYERS: Final = 4096
"""Bounds what a damaged config can ask for; no model has a tenth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What is known of every model.

    `context_length` is the most tokens a sequence may have, prompt and output together. `dtype` is
    the one of `DTYPES` that the checkpoint declares.
    """

    model_type: str
    context_length: int
    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsSpec:
    """The MLPs of a mixture of experts: of `count` in a layer each token takes the `num_chosen`
    that a router gives the most weight.

    `is_normalised`: the weights of those sum to 1, else those of all do. `routed` has one entry per
    layer: whether it has experts, or the one MLP of a dense model.
    """

    count: int
    num_chosen: int
    intermediate_size: int
    is_normalised: bool
    routed: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec(ModelSpec):
    """A Llama-like decoder: everything in which the supported families differ.

    `windows` has one entry per layer: how many positions back a query sees (itself included), or
    None for all. `qkv_bias`, `output_bias` and `mlp_bias` say which projections have biases;
    `qk_norm` that queries and keys are normalised per head before rotation.
    `integers` says how «stored integers» are. `kept_bits`: a GGUF file has some, of so many bits at
    most, that stay as they are where weights are rounded to as many; 0: none. `experts` are those
    of a mixture; `intermediate_size` is of its layers that have none.
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
    integers: IntegerScheme | None = None
    kept_bits: int = 0
    experts: ExpertsSpec | None = None

    @property
    def routed(self) -> tuple[bool, ...]:
        """Which layers have experts."""
        return (False,) * self.num_layers if self.experts is None else self.experts.routed

    @property
    def rounded_to(self) -> str:
        """What full projections become when they are loaded; empty: nothing else."""
        return self.projections if self.projections in ("fp8", "int8", "int4") else ""
