"""Which tokens end a model's output."""

from pathlib import Path

from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.generation import read_generation_defaults
from lengthwise_checkpoint.tokenizer import TextFiles


def read_end_tokens(folder: Path, text: TextFiles, vocab_size: int) -> tuple[int, ...]:
    """Those of the generation defaults and the tokenizer's own: chat models are published whose
    tokenizer alone names the token that ends a turn. Errors: CheckpointError."""
    generation = read_generation_defaults(folder, read_config(folder))
    own = () if text.eos_token_id is None else (text.eos_token_id,)
    ends = dict.fromkeys((*generation.eos_token_ids, *own))
    return tuple(token_id for token_id in ends if token_id < vocab_size)
