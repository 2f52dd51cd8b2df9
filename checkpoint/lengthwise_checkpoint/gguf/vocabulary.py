"""The tokens of a GGUF model."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lengthwise_checkpoint.config_json import ConfigJson

NORMAL: Final = 1
CONTROL: Final = 3
USER_DEFINED: Final = 4
"""Kinds of tokens; the others are unknown, unused and bytes."""

MAX_TOKEN_LENGTH: Final = 1024
"""Characters; the longest published tokens have some hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    """`tokens` and their `kinds` by id; `scores`, the higher the likelier, for sentencepiece."""

    tokens: Sequence[str]
    kinds: Sequence[int]
    scores: Sequence[float]

    def special_token(self, metadata: ConfigJson, name: str) -> str | None:
        """That which the metadata has an id of: bos, eos, unknown, padding."""
        key = f"tokenizer.ggml.{name}_token_id"
        if key not in metadata:
            return None
        token_id = metadata.integer(key, minimum=0)
        if token_id >= len(self.tokens):
            raise metadata.error(key, f"got {token_id}, expected one of {len(self.tokens)} tokens")
        return self.tokens[token_id]


def read_vocabulary(metadata: ConfigJson) -> GgufVocabulary:
    """Raises `CheckpointError`."""
    key = "tokenizer.ggml.tokens"
    tokens = metadata.texts(key)
    if not tokens:
        raise metadata.error(key, "missing: a file without a vocabulary cannot be served")
    if len(longest := max(tokens, key=len)) > MAX_TOKEN_LENGTH:
        message = f"a token of {len(longest)} characters, expected {MAX_TOKEN_LENGTH} at most"
        raise metadata.error(key, message)
    return GgufVocabulary(
        tokens=tokens,
        kinds=_numbers(metadata, "tokenizer.ggml.token_type", len(tokens), NORMAL),
        scores=_numbers(metadata, "tokenizer.ggml.scores", len(tokens), 0.0),
    )


def _numbers(metadata: ConfigJson, key: str, count: int, default: float) -> Sequence[Any]:
    if key not in metadata:
        return [default] * count
    values = metadata.value(key)
    if not isinstance(values, array) or len(values) != count:
        raise metadata.error(key, f"expected a number for each of {count} tokens")
    return values
