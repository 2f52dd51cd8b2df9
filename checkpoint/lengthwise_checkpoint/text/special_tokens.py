"""Special and added tokens, as transformers puts them together from tokenizer_config.json and two
older files: special_tokens_map.json and added_tokens.json."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from lengthwise_checkpoint.config_json import ConfigJson

_NAMES: Final = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_EXTRA: Final = ("extra_special_tokens", "additional_special_tokens")
_DECODER: Final = "added_tokens_decoder"
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """`named` has bos_token, eos_token and so on, and those of a model's own, as image_token;
    `extra` those without a name; `added` all added tokens by their ids, special or not."""

    named: Mapping[str, AddedToken]
    extra: tuple[AddedToken, ...]
    added: Mapping[int, AddedToken]

    @property
    def all(self) -> list[AddedToken]:
        return [*self.named.values(), *self.extra]


def read_special_tokens(
    folder: Path,
    config: ConfigJson,
    added: Mapping[int, AddedToken],
    defaults: Mapping[str, str],
) -> SpecialTokens:
    """Those of a checkpoint folder. Raises `CheckpointError`.

    `config` is tokenizer_config.json, `added` are the tokens of tokenizer.json; `defaults` those
    special ones that hold where no file says anything of them.
    """
    sources = [config]
    if _DECODER not in config:
        sources.append(ConfigJson.read_optional(folder / "special_tokens_map.json"))
    named = _read_named(defaults, sources)
    extra = _read_extra(sources)
    if _DECODER in config:
        added = dict(_read_decoder(config))
    else:
        special = {token.content for token in (*named.values(), *extra)}
        added = {**dict(_read_older(folder, special)), **added}
    # What is known of an added token, its flags, is not said again where it is named.
    by_content = {token.content: token for token in added.values()}
    return SpecialTokens(
        named={name: by_content.get(token.content, token) for name, token in named.items()},
        extra=extra,
        added=added,
    )


def add_tokens(tokenizer: Tokenizer, special: SpecialTokens) -> None:
    """Adds those that the tokenizer lacks or has with other flags."""
    there = [*tokenizer.get_added_tokens_decoder().values()]
    known = {repr(token) for token in there}
    missing = [token for _, token in sorted(special.added.items()) if repr(token) not in known]
    contents = {token.content for token in (*there, *missing)}
    for token in special.all:
        if token.content not in contents:
            contents.add(token.content)
            missing.append(token)
    names = {token.content for token in special.named.values()}
    for token in missing:
        token.special = token.special or token.content in names
    tokenizer.add_tokens(missing)


def _read_named(defaults: Mapping[str, str], sources: list[ConfigJson]) -> dict[str, AddedToken]:
    """Of several sources the last one counts, and null takes a token away."""
    named: dict[str, AddedToken | None] = dict.fromkeys(_NAMES)
    named |= {name: AddedToken(text, special=True) for name, text in defaults.items()}
    for source in sources:
        for name in source:
            if name in _NAMES:
                named[name] = _read_token(source, name) if name in source else None
            elif name.endswith("_token") and isinstance(source.value(name), str):
                named[name] = _read_token(source, name)
        for key in _EXTRA:
            if isinstance(source.value(key), dict):
                own = source.object(key)
                named |= {name: _read_token(own, name) for name in own}
    return {name: token for name, token in named.items() if token is not None}


def _read_extra(sources: list[ConfigJson]) -> tuple[AddedToken, ...]:
    tokens = {}
    for source in sources:
        for key in _EXTRA:
            if not isinstance(source.value(key), dict):
                listed = source.listed(key)
                for place in listed:
                    token = _read_token(listed, place)
                    tokens[token.content] = token
    return tuple(tokens.values())


def _read_token(source: ConfigJson, name: str) -> AddedToken:
    """A token is a string, or an object with the string as its content."""
    if not isinstance(source.value(name), dict):
        return AddedToken(source.text(name), special=True)
    return _read_flagged(source.object(name), special=True)


def _read_flagged(token: ConfigJson, **flags: bool) -> AddedToken:
    stated: dict[str, Any] = {flag: token.boolean(flag, False) for flag in _FLAGS if flag in token}
    return AddedToken(token.text("content"), **{**stated, **flags})


def _read_decoder(config: ConfigJson) -> Iterator[tuple[int, AddedToken]]:
    decoder = config.object(_DECODER)
    for key in decoder:
        if not key.isdecimal():
            raise decoder.error(key, "expected a token id as the key")
        yield int(key), _read_flagged(decoder.object(key))


def _read_older(folder: Path, special: set[str]) -> Iterator[tuple[int, AddedToken]]:
    older = ConfigJson.read_optional(folder / "added_tokens.json")
    for text in older:
        is_special = text in special
        token = AddedToken(text, special=is_special, normalized=not is_special)
        yield older.integer(text, minimum=0), token
