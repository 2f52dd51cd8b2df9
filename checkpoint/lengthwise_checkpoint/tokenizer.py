"""A checkpoint's tokenizer, special tokens and chat template, as transformers' AutoTokenizer reads
them: tokenizer.json, and what the files beside it say.

What is put around a text is tokenizer.json's post-processor alone; `add_bos_token` is not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer, models

from lengthwise_checkpoint.config_json import ConfigJson, read_text, shorten
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.gguf.model import is_gguf, read_gguf
from lengthwise_checkpoint.gguf.tokenizer import read_gguf_tokenizer
from lengthwise_checkpoint.text.chat_template import read_chat_template
from lengthwise_checkpoint.text.special_tokens import add_tokens, read_special_tokens
from lengthwise_checkpoint.text.tokenizer_class import find_class, rebuild

MAX_TOKENIZER_BYTES: Final = 256 << 20
"""The largest published ones have 40 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """What turns text into token ids and conversations into text.

    `special_tokens` maps bos_token, eos_token and so on to their text, for chat templates.
    `cleans_up`: spaces before marks and contractions are taken out of decoded text.
    """

    tokenizer: Tokenizer
    cleans_up: bool
    special_tokens: Mapping[str, str]
    chat_template: str | None

    @property
    def eos_token_id(self) -> int | None:
        """The id of the tokenizer's own end-of-sequence token."""
        token = self.special_tokens.get("eos_token")
        token_id: int | None = None if token is None else self.tokenizer.token_to_id(token)
        return token_id

    @property
    def tokens_are_bytes(self) -> bool:
        """Whether each token stands for the same bytes wherever it comes, so that outputs can be
        held to a grammar: byte-level tokenizers and those that fall back to bytes."""
        decoder = self.tokenizer.decoder
        state = b"" if decoder is None else decoder.__getstate__()
        return b'"ByteLevel"' in state or b'"ByteFallback"' in state


def read_text_files(folder: Path) -> TextFiles:
    """Those of a checkpoint. Raises `CheckpointError`."""
    if is_gguf(folder):
        return _read_gguf(folder)
    config = ConfigJson.read_optional(folder / "tokenizer_config.json")
    path = folder / "tokenizer.json"
    text = read_text(path, MAX_TOKENIZER_BYTES)
    tokenizer = _parse(path, text)
    added = tokenizer.get_added_tokens_decoder()
    padding = tokenizer.padding
    defaults: dict[str, str] = {} if padding is None else {"pad_token": padding["pad_token"]}
    model = ConfigJson.read_optional(folder / "config.json")
    kind = find_class(model, config, tokenizer, is_byte_level='"ByteLevel"' in text)
    if kind is not None:
        tokenizer = rebuild(tokenizer, kind, config)
        defaults |= kind.special_tokens
    special = read_special_tokens(folder, config, added, defaults)
    add_tokens(tokenizer, special)
    if kind is not None and kind.marks_all_special:
        tokenizer.add_tokens([AddedToken(token.content, special=True) for token in special.all])
    # Some files carry the truncation and padding of their training.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = config.boolean("split_special_tokens", False)
    return TextFiles(
        tokenizer=tokenizer,
        cleans_up=_cleans_up(config, tokenizer),
        special_tokens={name: token.content for name, token in special.named.items()},
        chat_template=read_chat_template(folder, config),
    )


def _read_gguf(path: Path) -> TextFiles:
    metadata = read_gguf(path).metadata
    tokenizer, special_tokens = read_gguf_tokenizer(metadata)
    return TextFiles(
        tokenizer=tokenizer,
        cleans_up=False,
        special_tokens=special_tokens,
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
    )


def _cleans_up(config: ConfigJson, tokenizer: Tokenizer) -> bool:
    """transformers does not do it to BPE, whose spaces are the text's own, unless it is forced."""
    name = "clean_up_tokenization_spaces"
    is_bpe = isinstance(tokenizer.model, models.BPE)
    return config.boolean(name, False) and (
        not is_bpe or config.boolean(f"{name}_for_bpe_even_though_it_will_corrupt_output", False)
    )


def _parse(path: Path, text: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    # The bindings raise bare Exception for anything wrong in the file, and panics are none.
    except BaseException as error:
        raise CheckpointError(f"{path}: not a tokenizer: {shorten(str(error))}") from error
