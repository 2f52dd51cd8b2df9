"""The tokenizer of a GGUF model: byte-level BPE (`gpt2`) or sentencepiece (`llama`)."""

from collections.abc import Callable, Mapping
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from lengthwise_checkpoint.config_json import ConfigJson, shorten
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.gguf.vocabulary import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    GgufVocabulary,
    read_vocabulary,
)
from lengthwise_checkpoint.gguf.word_splits import read_word_split

_NAMED: Final = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


def read_gguf_tokenizer(metadata: ConfigJson) -> tuple[Tokenizer, Mapping[str, str]]:
    """With bos_token, eos_token and so on. Raises `CheckpointError`."""
    vocabulary = read_vocabulary(metadata)
    key = "tokenizer.ggml.model"
    if (kind := metadata.text(key)) not in _KINDS:
        raise metadata.unsupported(key, f"got {kind!r}; supported are {', '.join(_KINDS)}")
    special = {
        name: token
        for name, stored in _NAMED.items()
        if (token := vocabulary.special_token(metadata, stored)) is not None
    }
    try:
        tokenizer, adds_bos = _KINDS[kind](metadata, vocabulary, special)
        _add_special_tokens(tokenizer, vocabulary)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    # The bindings raise bare Exception for anything wrong, and panics are none.
    except BaseException as error:
        raise metadata.error(key, f"not a tokenizer: {shorten(str(error))}") from error
    _surround(tokenizer, metadata, special, adds_bos)
    return tokenizer, special


def _byte_level(
    metadata: ConfigJson, vocabulary: GgufVocabulary, special: Mapping[str, str]
) -> tuple[Tokenizer, bool]:
    split = read_word_split(metadata)
    model = models.BPE(
        vocab=_ids(vocabulary),
        merges=_stored_merges(metadata),
        ignore_merges=split.takes_whole_words,
    )
    tokenizer = Tokenizer(model)
    if split.normalizer is not None:
        tokenizer.normalizer = split.normalizer
    tokenizer.pre_tokenizer = split.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.adds_bos


def _sentencepiece(
    metadata: ConfigJson, vocabulary: GgufVocabulary, special: Mapping[str, str]
) -> tuple[Tokenizer, bool]:
    stored = "tokenizer.ggml.merges" in metadata
    model = models.BPE(
        vocab=_ids(vocabulary),
        merges=_stored_merges(metadata) if stored else _implied_merges(vocabulary),
        unk_token=special.get("unk_token"),
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefixes = metadata.boolean("tokenizer.ggml.add_space_prefix", True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if prefixes else "never", split=False
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, decoders.Strip(" ", 1, 0)] if prefixes else steps
    )
    return tokenizer, True


_KINDS: Final[
    Mapping[str, Callable[[ConfigJson, GgufVocabulary, Mapping[str, str]], tuple[Tokenizer, bool]]]
] = {"gpt2": _byte_level, "llama": _sentencepiece}
"""Each gives the tokenizer, and whether it begins a text where the file does not say."""


def _ids(vocabulary: GgufVocabulary) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(vocabulary.tokens)}


def _stored_merges(metadata: ConfigJson) -> list[tuple[str, str]]:
    key = "tokenizer.ggml.merges"
    merges = []
    for merge in metadata.texts(key):
        first, space, second = merge.partition(" ")
        if not (first and space and second):
            raise metadata.error(key, f"got {merge[:80]!r}, expected two tokens")
        merges.append((first, second))
    return merges


def _implied_merges(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, those of the highest score first."""
    ids = _ids(vocabulary)
    scored = []
    for token, kind, score in zip(
        vocabulary.tokens, vocabulary.kinds, vocabulary.scores, strict=True
    ):
        if kind == NORMAL:
            for at in range(1, len(token)):
                pair = token[:at], token[at:]
                if pair[0] in ids and pair[1] in ids:
                    scored.append((score, pair))
    scored.sort(key=lambda each: (-each[0], *(-len(token) for token in each[1])))
    return [pair for _, pair in scored]


def _add_special_tokens(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(added)


def _surround(
    tokenizer: Tokenizer, metadata: ConfigJson, special: Mapping[str, str], adds_bos: bool
) -> None:
    """What is put before and after a text."""
    adds = {
        "bos": metadata.boolean("tokenizer.ggml.add_bos_token", adds_bos),
        "eos": metadata.boolean("tokenizer.ggml.add_eos_token", False),
    }
    named = {name: special.get(f"{name}_token") for name, does in adds.items() if does}
    around = {name: token for name, token in named.items() if token is not None}
    if not around:
        return
    single = [around.get("bos"), "$A", around.get("eos")]
    tokens = [(token, tokenizer.token_to_id(token)) for token in around.values()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[piece for piece in single if piece is not None], special_tokens=tokens
    )
