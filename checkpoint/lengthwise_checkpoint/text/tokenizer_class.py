"""The class that transformers 5 reads a tokenizer with.

Most classes take tokenizer.json as it is. Those in `CLASSES` take its vocabulary, merges, added
tokens and post-processor, and put the rest around them themselves, whatever tokenizer.json says. A
checkpoint that was trained with what its tokenizer.json says declares PreTrainedTokenizerFast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from lengthwise_checkpoint.config_json import ConfigJson

QWEN_2_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerClass:
    """`surround` gives a tokenizer without any parts beside its model those of the class."""

    surround: Callable[[Tokenizer, ConfigJson], None]
    special_tokens: Mapping[str, str]
    """Where the checkpoint says nothing of them."""
    marks_all_special: bool = False
    """Every special token loses its other flags."""


def _llama(tokenizer: Tokenizer, config: ConfigJson) -> None:
    tokenizer.model.fuse_unk, tokenizer.model.byte_fallback = True, True
    prefixes = config.boolean("add_prefix_space", True)
    scheme = "always" if config.boolean("legacy", False) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme=scheme if prefixes else "never", split=False
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, decoders.Strip(" ", 1, 0)] if prefixes else steps
    )


def _gpt_2(tokenizer: Tokenizer, config: ConfigJson) -> None:
    tokenizer.model.fuse_unk, tokenizer.model.byte_fallback = False, False
    prefixes = config.boolean("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefixes)
    tokenizer.decoder = decoders.ByteLevel()


def _qwen_2(tokenizer: Tokenizer, config: ConfigJson) -> None:
    _gpt_2(tokenizer, config)
    prefixes = config.boolean("add_prefix_space", False)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_2_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=prefixes, use_regex=False),
        ]
    )


_END_OF_TEXT: Final = "<|endoftext|>"
CLASSES: Final[Mapping[str, TokenizerClass]] = {
    "LlamaTokenizer": TokenizerClass(
        surround=_llama,
        special_tokens={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    ),
    "GPT2Tokenizer": TokenizerClass(
        surround=_gpt_2,
        special_tokens=dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END_OF_TEXT),
    ),
    "Qwen2Tokenizer": TokenizerClass(
        surround=_qwen_2,
        special_tokens=dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END_OF_TEXT),
        marks_all_special=True,
    ),
}

_OF_MODEL_TYPES: Final = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}


def find_class(
    config: ConfigJson, tokenizer_config: ConfigJson, tokenizer: Tokenizer, *, is_byte_level: bool
) -> TokenizerClass | None:
    """None for a tokenizer.json that is taken as it is. `config` is config.json."""
    model_type = config.text("model_type", "")
    declared = tokenizer_config.text("tokenizer_class", config.text("tokenizer_class", ""))
    name = declared.removesuffix("Fast") or _OF_MODEL_TYPES.get(model_type, "")
    if model_type == "qwen2":
        name = _OF_MODEL_TYPES[model_type]  # many of its checkpoints declare another one
    elif model_type == "mistral" or (name == "LlamaTokenizer" and is_byte_level):
        return None
    return CLASSES.get(name) if isinstance(tokenizer.model, models.BPE) else None


def rebuild(tokenizer: Tokenizer, kind: TokenizerClass, config: ConfigJson) -> Tokenizer:
    """The tokenizer as its class has it. `config` is tokenizer_config.json."""
    rebuilt = Tokenizer(tokenizer.model)
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        setattr(rebuilt.model, option, None)
    rebuilt.model.ignore_merges = False
    if tokenizer.post_processor is not None:
        rebuilt.post_processor = tokenizer.post_processor
    kind.surround(rebuilt, config)
    return rebuilt
