"""How byte-level vocabularies split text into words before merges are applied.

GGUF names the way (`tokenizer.ggml.pre`) and does not describe it: the expressions are those of the
models' own tokenizer.json. One that is not listed is refused, since text that is split otherwise
becomes other tokens than the model was trained with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenizers import Regex, normalizers, pre_tokenizers

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.text.tokenizer_class import QWEN_2_WORDS

_LLAMA_3: Final = QWEN_2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_TEKKEN: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CODER: Final = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSplit:
    """Each of `expressions` splits what those before it left; then, unless `is_whole`, that of
    GPT-2. `takes_whole_words`: a word that is a token needs no merges. `adds_bos`: where the file
    does not say."""

    expressions: tuple[str, ...] = ()
    is_whole: bool = True
    takes_whole_words: bool = False
    adds_bos: bool = False
    is_nfc: bool = False

    @property
    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        splits = [
            pre_tokenizers.Split(Regex(each), behavior="isolated") for each in self.expressions
        ]
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not self.is_whole)
        return pre_tokenizers.Sequence([*splits, words])

    @property
    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.is_nfc else None


_GPT_2_SPLIT: Final = WordSplit(is_whole=False)
_DIGITS_SPLIT: Final = WordSplit(expressions=(r"\p{N}",), is_whole=False)
_LLAMA_3_SPLIT: Final = WordSplit(expressions=(_LLAMA_3,), takes_whole_words=True, adds_bos=True)
_QWEN_2_SPLIT: Final = WordSplit(expressions=(QWEN_2_WORDS,))
WORD_SPLITS: Final[Mapping[str, WordSplit]] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo"), _GPT_2_SPLIT),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "codeshell", "command-r", "exaone", "minerva-7b"),
        _DIGITS_SPLIT,
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA_3_SPLIT),
    **dict.fromkeys(("smaug-bpe", "dbrx"), WordSplit(expressions=(_LLAMA_3,))),
    "qwen2": WordSplit(expressions=(QWEN_2_WORDS,), is_nfc=True),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2"), _QWEN_2_SPLIT),
    "tekken": WordSplit(expressions=(_TEKKEN,), takes_whole_words=True, adds_bos=True),
    "deepseek-coder": WordSplit(expressions=_DEEPSEEK_CODER),
}


def read_word_split(metadata: ConfigJson) -> WordSplit:
    """Raises `UnsupportedModel`."""
    key = "tokenizer.ggml.pre"
    name = metadata.text(key, "")
    if name not in WORD_SPLITS:
        got = repr(name) if name else "nothing, as files made before May 2024 have it"
        message = f"got {got}; supported are {', '.join(WORD_SPLITS)}"
        raise metadata.unsupported(key, message)
    return WORD_SPLITS[name]
