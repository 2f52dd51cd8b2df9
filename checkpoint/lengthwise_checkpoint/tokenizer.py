"""A checkpoint's tokenizer, special tokens and chat template, as transformers' AutoTokenizer reads
them: tokenizer.json, and what tokenizer_config.json and older files add to it.

What is put around a text is tokenizer.json's post-processor alone; `add_bos_token` is not read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from lengthwise_checkpoint.config_json import ConfigJson, read_text
from lengthwise_checkpoint.errors import CheckpointError

_NAMES: Final = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """What turns text into token ids and conversations into text.

    `special_tokens` maps bos_token, eos_token and so on to their text, for chat templates.
    """

    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]
    chat_template: str | None

    @property
    def eos_token_id(self) -> int | None:
        """The id of the tokenizer's own end-of-sequence token."""
        token = self.special_tokens.get("eos_token")
        token_id: int | None = None if token is None else self.tokenizer.token_to_id(token)
        return token_id


def read_text_files(folder: Path) -> TextFiles:
    """Those of a checkpoint folder. Raises `CheckpointError`."""
    config = ConfigJson.read_optional(folder / "tokenizer_config.json")
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    special_tokens = _read_special_tokens(folder, config)
    _add_tokens(tokenizer, [*_read_added_tokens(folder, config, special_tokens)], special_tokens)
    return TextFiles(
        tokenizer=tokenizer,
        special_tokens=special_tokens,
        chat_template=_read_chat_template(folder, config),
    )


def _read_tokenizer(path: Path) -> Tokenizer:
    text = read_text(path)
    try:
        tokenizer = Tokenizer.from_str(text)
    # The bindings raise bare Exception for anything wrong in the file.
    except Exception as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
    # Some files carry the truncation and padding of their training.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_special_tokens(folder: Path, config: ConfigJson) -> dict[str, str]:
    """By name. special_tokens_map.json counts where no `added_tokens_decoder` has replaced it."""
    sources = [config]
    if "added_tokens_decoder" not in config:
        sources.append(ConfigJson.read_optional(folder / "special_tokens_map.json"))
    return {name: _text_of(source, name) for source in sources for name in _NAMES if name in source}


def _text_of(source: ConfigJson, name: str) -> str:
    """A token is a string, or an object with the string as its content."""
    if isinstance(source.value(name), dict):
        return source.object(name).text("content")
    return source.text(name)


def _read_added_tokens(
    folder: Path, config: ConfigJson, special_tokens: Mapping[str, str]
) -> Iterator[AddedToken]:
    """Those beside tokenizer.json, by their ids: `added_tokens_decoder`, or added_tokens.json."""
    decoder = config.object("added_tokens_decoder")
    if decoder.keys():
        for key in sorted(decoder.keys(), key=lambda key: (len(key), key)):
            token = decoder.object(key)
            flags: dict[str, Any] = {
                flag: token.boolean(flag, False) for flag in _FLAGS if flag in token
            }
            yield AddedToken(token.text("content"), **flags)
        return
    older = ConfigJson.read_optional(folder / "added_tokens.json")
    for text in sorted(older.keys(), key=lambda text: older.integer(text, minimum=0)):
        special = text in special_tokens.values()
        yield AddedToken(text, special=special, normalized=not special)


def _add_tokens(
    tokenizer: Tokenizer, tokens: list[AddedToken], special_tokens: Mapping[str, str]
) -> None:
    known = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    added = [token for token in tokens if repr(token) not in known]
    texts = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    texts.update(token.content for token in added)
    for text in dict.fromkeys(special_tokens.values()):
        if text not in texts:
            added.append(AddedToken(text, special=True))
    tokenizer.add_tokens(added)


def _read_chat_template(folder: Path, config: ConfigJson) -> str | None:
    """chat_template.jinja, or the one of tokenizer_config.json; of several, the default."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return read_text(path)
    template = config.value("chat_template")
    if isinstance(template, list):
        named = {
            item.get("name"): item.get("template") for item in template if isinstance(item, dict)
        }
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise config.error("chat_template", f"expected a string, got {type(template).__name__}")
    return template
