"""The served model as a router knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from lengthwise_checkpoint.architectures import read_limits
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.generation import read_generation_defaults
from lengthwise_checkpoint.gguf.model import is_gguf
from lengthwise_checkpoint.hub import TEXT_FILES, find_checkpoint, model_name
from lengthwise_checkpoint.text.end_tokens import read_end_tokens
from lengthwise_checkpoint.tokenizer import read_text_files
from lengthwise_policy.sampling import SamplingParameters
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.sampling_parameters import SAMPLING_PARAMETERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What requests are checked against and turned into tokens with."""

    name: str
    context_length: int  # prompt and output together, in tokens
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    default_sampling: SamplingParameters  # for what a request leaves open; the seed means nothing
    tokenizer: Tokenizer
    cleans_up: bool  # spaces in answers, as word pieces need it
    chat_template: str | None
    special_tokens: Mapping[str, str]  # bos_token, eos_token and so on, for chat templates
    tokens_are_bytes: bool  # output can be held to a grammar


def load_checkpoint(model: str, served_name: str = "") -> Checkpoint:
    """Reads a checkpoint folder or GGUF file, or those of a hub id. Errors: CheckpointError."""
    folder = find_checkpoint(model, TEXT_FILES)
    config = read_config(folder)
    limits = read_limits(config)
    generation = read_generation_defaults(folder, config)
    text = read_text_files(folder)
    _check_defaults(folder, generation.sampling)
    return Checkpoint(
        name=served_name or model_name(model),
        context_length=limits.context_length,
        vocab_size=limits.vocab_size,
        eos_token_ids=read_end_tokens(folder, text, limits.vocab_size),
        default_sampling=generation.sampling,
        tokenizer=text.tokenizer,
        cleans_up=text.cleans_up,
        chat_template=text.chat_template,
        special_tokens=text.special_tokens,
        tokens_are_bytes=text.tokens_are_bytes,
    )


def _check_defaults(folder: Path, sampling: SamplingParameters) -> None:
    """What is the default must be what a request could ask for."""
    for field, value in sampling_to_wire(sampling).ListFields():
        try:
            SAMPLING_PARAMETERS[field.name].check(field.name, value)
        except InvalidRequest as error:
            where = folder if is_gguf(folder) else folder / "generation_config.json"
            raise CheckpointError(f"{where}: {error}") from error
