"""The toy model of tests and quick starts: its sizes, and how its config.json is read.

What a test may vary is a key of config.json; everything else is a constant here.
"""

from dataclasses import dataclass
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.rope import read_context_length, read_rope
from lengthwise_checkpoint.spec import MAX_LAYERS, ModelSpec

MODEL_TYPE: Final = "lengthwise_toy"
NUM_KV_HEADS: Final = 2
HEAD_DIM: Final = 4
EOS_TOKEN_ID: Final = 257
VOCAB_SIZE: Final = 260
"""256 bytes (a byte's token id is its value), then begin, end, user and assistant marks. A larger
vocabulary has tokens that the toy never says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySpec(ModelSpec):
    """The toy's sizes and its pace.

    `eos_one_in` k > 0 makes one token in about k the end-of-sequence token; 0 means never. Each
    step takes at least `step_seconds` plus `prefill_seconds_per_token` for each prompt token.
    `asynchronous` computes steps beside the thread that launches them, as a GPU does.
    """

    eos_one_in: int
    step_seconds: float
    prefill_seconds_per_token: float
    asynchronous: bool


def read_toy_spec(config: ConfigJson) -> ToySpec:
    """The spec of a config.json that `write_toy_checkpoint` wrote."""
    return ToySpec(
        model_type=MODEL_TYPE,
        context_length=read_context_length(config, read_rope(config)),
        vocab_size=config.integer("vocab_size", default=VOCAB_SIZE, minimum=VOCAB_SIZE),
        num_layers=config.integer("num_hidden_layers", maximum=MAX_LAYERS),
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        dtype="float32",
        eos_one_in=config.integer("eos_one_in", minimum=0),
        step_seconds=config.number("step_seconds", minimum=0.0),
        prefill_seconds_per_token=config.number("prefill_seconds_per_token", minimum=0.0),
        asynchronous=config.boolean("asynchronous", default=False),
    )
