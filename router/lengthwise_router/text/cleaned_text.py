"""Texts without the spaces that word pieces have before marks and contractions, as transformers
cleans them where tokenizer_config.json says `clean_up_tokenization_spaces`."""

from collections.abc import Sequence
from typing import Final, Protocol

from lengthwise_router.text.overlap import overlap

_REPLACED: Final = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)
"""One after the other, each over the whole text."""


class _Source(Protocol):
    def append(self, token_ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class _Replace:
    """`str.replace` of a text that comes in pieces: what could be the beginning of `old` waits."""

    __slots__ = ("_new", "_old", "_waiting")

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._waiting = ""

    def append(self, text: str) -> str:
        *before, end = (self._waiting + text).split(self._old)
        size = overlap(end, self._old)
        self._waiting = self._old[:size]
        return "".join(f"{each}{self._new}" for each in before) + end[: len(end) - size]

    def finish(self) -> str:
        waiting, self._waiting = self._waiting, ""
        return waiting


class CleanedDetokenizer:
    """The cleaned text of another detokenizer's tokens."""

    __slots__ = ("_detokenizer", "_steps")

    def __init__(self, detokenizer: _Source) -> None:
        self._detokenizer = detokenizer
        self._steps = [_Replace(old, new) for old, new in _REPLACED]

    def append(self, token_ids: Sequence[int]) -> str:
        text = self._detokenizer.append(token_ids)
        for step in self._steps:
            text = step.append(text)
        return text

    def finish(self) -> str:
        text = self._detokenizer.finish()
        for step in self._steps:
            text = step.append(text) + step.finish()
        return text
