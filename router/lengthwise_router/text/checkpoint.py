"""What the router reads of a checkpoint: the tokenizer, the chat template, and the few numbers that
requests are checked against. Weights and torch are the workers' affair.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer

from lengthwise_policy.sampling import SamplingParameters
from lengthwise_runtime.config import ConfigError

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A served model as the router knows it."""

    name: str
    context_length: int  # prompt and output together, in tokens
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    default_sampling: (
        SamplingParameters  # what applies where a request says nothing; the seed is none
    )
    tokenizer: Tokenizer
    chat_template: str | None
    special_tokens: Mapping[str, str]  # bos_token, eos_token and so on, for chat templates


def load_checkpoint(model: str, served_name: str = "") -> Checkpoint:
    """Reads a checkpoint folder, or the same files of a hub id.

    Errors: ConfigError naming the file and what is wrong with it.
    """
    folder = _folder_of(model)
    config = _read_json(folder / "config.json")
    generation = _read_json(folder / "generation_config.json", required=False)
    tokenizer_config = _read_json(folder / "tokenizer_config.json", required=False)
    text_config = config.get("text_config") or config
    return Checkpoint(
        name=served_name or model.rstrip("/").rpartition("/")[2],
        context_length=_context_length(text_config, folder),
        vocab_size=_integer(text_config, "vocab_size", folder),
        eos_token_ids=_token_ids(generation.get("eos_token_id"))
        or _token_ids(text_config.get("eos_token_id")),
        default_sampling=_default_sampling(generation, folder),
        tokenizer=_tokenizer(folder),
        chat_template=_chat_template(folder, tokenizer_config),
        special_tokens=_special_tokens(tokenizer_config),
    )


def _folder_of(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ConfigError(f"model: got {model!r}, expected a checkpoint folder or a hub id")
    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    # The hub raises errors of a dozen families; whichever it is, the operator has to mend it.
    except Exception as error:
        raise ConfigError(f"model: cannot fetch {model!r} from the hub: {error}") from error


def _read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise ConfigError(f"{path}: not found; expected a Hugging Face checkpoint")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object, got {type(value).__name__}")
    return value


def _integer(config: Mapping[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{folder}/config.json: {key}: expected an integer >= 1, got {value!r}")
    return value


def _context_length(config: Mapping[str, Any], folder: Path) -> int:
    """YaRN stretches the context beyond max_position_embeddings, as the engine reads it too."""
    length = _integer(config, "max_position_embeddings", folder)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        return length
    key = "original_max_position_embeddings"
    original = config.get(key) or scaling.get(key) or length
    return max(length, int(original * scaling.get("factor", length / original)))


def _token_ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int))


def _default_sampling(generation: Mapping[str, Any], folder: Path) -> SamplingParameters:
    """What the model's makers recommend; `do_sample` false means greedy."""
    named = {
        key: generation[key]
        for key in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        if generation.get(key) is not None
    }
    if generation.get("do_sample") is False:
        named["temperature"] = 0.0
    for key, value in named.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"{folder}/generation_config.json: {key}: expected a number, got {value!r}"
            )
    return SamplingParameters(**named)


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; expected a Hugging Face fast tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The bindings raise bare Exception for anything wrong in the file.
    except Exception as error:
        raise ConfigError(f"{path}: not a tokenizer: {error}") from error
    # Some files carry the truncation and padding of their training.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token"):
        value = tokenizer_config.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[key] = value
    return tokens
