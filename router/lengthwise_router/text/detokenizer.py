"""Token ids → text, piece by piece: that of all tokens, less what it shares with the prompt's.

Invariants: prompt and pieces joined are the one-shot decode; no piece splits a character; and how
far the text lags behind is a function of the tokens alone, not of how they were grouped, so that a
stream can be resumed elsewhere at any token. The work per token is bounded, however long the
prompt or the stream.

Two kinds of tokenizer need two ways:

* *Byte level* (GPT-2, Llama 3, Qwen): a token is a string of bytes wherever it stands, so an
  incremental UTF-8 decoder is exact.
* *Any other* (Metaspace with byte fallback, as Llama 2): neighbours matter. Spaces at the very
  start disappear, and a run of byte tokens is decoded as a whole: valid UTF-8 or nothing. So a
  run is held back until it ends, and each piece is decoded together with what is before it.
"""

import codecs
from collections.abc import Sequence
from itertools import takewhile
from typing import Final, Protocol

from lengthwise_router.text.cleaned_text import CleanedDetokenizer
from lengthwise_router.text.vocabulary import Vocabulary

_MOST_PENDING: Final = 3
"""Bytes of a character that is not complete."""


class Detokenizer(Protocol):
    """The text of one growing sequence."""

    def append(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens, and gives the text that has become certain."""

    def finish(self) -> str:
        """The text that was held back: no later token changes it."""


def detokenizer_after(prompt_ids: Sequence[int], vocabulary: Vocabulary) -> Detokenizer:
    """That of the tokens that follow a prompt, of which only the end is looked at, unless texts are
    cleaned: there a quote's space depends on all quotes before it."""
    of_all, of_prompt = _new(vocabulary), _new(vocabulary)
    if vocabulary.cleans_up:
        end = prompt_ids
    elif vocabulary.is_byte_level:
        end = _last_bytes(prompt_ids, vocabulary)
    else:
        end = vocabulary.context(prompt_ids)[0]
    of_all.append(end)
    of_prompt.append(end)
    uncertain = of_prompt.finish()
    return Continuation(of_all, uncertain) if uncertain else of_all


def _new(vocabulary: Vocabulary) -> Detokenizer:
    kind = ByteLevelDetokenizer if vocabulary.is_byte_level else WindowDetokenizer
    detokenizer = kind(vocabulary)
    return CleanedDetokenizer(detokenizer) if vocabulary.cleans_up else detokenizer


def _last_bytes(token_ids: Sequence[int], vocabulary: Vocabulary) -> Sequence[int]:
    """The tokens at the end that have the bytes of an incomplete character."""
    size = 0
    for start in range(len(token_ids) - 1, -1, -1):
        size += len(vocabulary.bytes_of(token_ids[start : start + 1]))
        if size >= _MOST_PENDING:
            return token_ids[start:]
    return token_ids


class ByteLevelDetokenizer:
    """For tokens that are strings of bytes."""

    __slots__ = ("_decoder", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def append(self, token_ids: Sequence[int]) -> str:
        return self._decoder.decode(self._vocabulary.bytes_of(token_ids))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For tokens whose text depends on their neighbours.

        _ids:   … │ context │ held back
                  0         _certain   end

    `context` is what was decoded last: decoded again together with what follows, and cut off.
    """

    __slots__ = ("_certain", "_context_text", "_ids", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._certain = 0
        self._context_text = ""

    def append(self, token_ids: Sequence[int]) -> str:
        vocabulary, ids = self._vocabulary, self._ids
        end = self._certain
        for token_id in token_ids:
            if vocabulary.is_shown(token_id):
                ids.append(token_id)
                if not vocabulary.is_byte(token_id):
                    end = len(ids)
        return self._decode_to(end)

    def finish(self) -> str:
        return self._decode_to(len(self._ids))

    def _decode_to(self, end: int) -> str:
        if end == self._certain:
            return ""
        text = self._vocabulary.decode(self._ids[:end])
        piece = text[len(self._context_text) :]
        context, self._context_text = self._vocabulary.context(self._ids[:end])
        self._ids[:end] = context
        self._certain = len(context)
        return piece


class Continuation:
    """The text of what follows a prompt whose own text ends with something uncertain: a character
    that is not complete, which what follows may end."""

    __slots__ = ("_detokenizer", "_shared")

    def __init__(self, detokenizer: Detokenizer, uncertain: str) -> None:
        """`detokenizer` has taken the prompt; `uncertain` is the text that it holds back."""
        self._detokenizer = detokenizer
        self._shared = uncertain

    def append(self, token_ids: Sequence[int]) -> str:
        return self._new_of(self._detokenizer.append(token_ids))

    def finish(self) -> str:
        return self._new_of(self._detokenizer.finish())

    def _new_of(self, text: str) -> str:
        """What the text has beyond that of the prompt alone."""
        if not self._shared or not text:
            return text
        pairs = zip(self._shared, text, strict=False)
        size = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])
        self._shared = self._shared[size:] if size == len(text) else ""
        return text[size:]
