"""Token ids → text, piece by piece, exactly as if all had been decoded at once.

Invariants: the pieces joined are the one-shot decode; no piece splits a character; and how far the
text lags behind is a function of the tokens alone, not of how they were grouped, so that a stream
can be resumed elsewhere at any token.

Two kinds of tokenizer need two ways:

* *Byte level* (GPT-2, Llama 3, Qwen): a token is a string of bytes wherever it stands, so an
  incremental UTF-8 decoder is exact.
* *Any other* (Metaspace with byte fallback, as Llama 2): neighbours matter. Spaces at the very
  start disappear, and a run of byte tokens is decoded as a whole: valid UTF-8 or nothing. So a
  run is held back until it ends, and each piece is decoded together with the one before it.
"""

import codecs
import json
import re
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>\Z")


class Detokenizer(Protocol):
    """The text of one growing sequence."""

    def append(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens, and gives the text that has become certain."""

    def finish(self) -> str:
        """The text that was held back; no token follows."""


class Vocabulary:
    """What is known of a tokenizer's tokens; makes detokenizers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = _is_byte_level(tokenizer)
        self._bytes_of_characters = {
            character: byte for byte, character in enumerate(_byte_level_alphabet())
        }
        self._special = {
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self._bytes: dict[int, bytes] = {}
        self._is_shown: dict[int, bool] = {}
        self._is_byte: dict[int, bool] = {}

    def detokenizer(self) -> Detokenizer:
        return ByteLevelDetokenizer(self) if self._is_byte_level else WindowDetokenizer(self)

    def bytes_of(self, token_ids: Sequence[int]) -> bytes:
        """What byte-level tokens stand for."""
        known = self._bytes
        try:
            return b"".join([known[token_id] for token_id in token_ids])
        except KeyError:
            for token_id in token_ids:
                known[token_id] = self._look_up(token_id)
            return b"".join([known[token_id] for token_id in token_ids])

    def is_shown(self, token_id: int) -> bool:
        """Special tokens and unknown ids have no text."""
        shown = self._is_shown.get(token_id)
        if shown is None:
            token = self._tokenizer.id_to_token(token_id)
            shown = self._is_shown[token_id] = token is not None and token_id not in self._special
            self._is_byte[token_id] = shown and _BYTE_TOKEN.match(token or "") is not None
        return shown

    def is_byte(self, token_id: int) -> bool:
        """Whether a shown token is a byte-fallback token."""
        return self._is_byte[token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def _look_up(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        bytes_of = self._bytes_of_characters
        if all(character in bytes_of for character in token):
            return bytes(bytes_of[character] for character in token)
        return token.encode()  # an added token is its own text


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
        vocabulary = self._vocabulary
        self._ids.extend([token_id for token_id in token_ids if vocabulary.is_shown(token_id)])
        end = len(self._ids)
        while end > self._certain and vocabulary.is_byte(self._ids[end - 1]):
            end -= 1
        return self._decode_to(end)

    def finish(self) -> str:
        return self._decode_to(len(self._ids))

    def _decode_to(self, end: int) -> str:
        if end == self._certain:
            return ""
        text = self._vocabulary.decode(self._ids[:end])
        piece = text[len(self._context_text) :]
        # A context without text would not absorb what a decoder strips from the start.
        fresh = self._ids[self._certain : end]
        fresh_text = self._vocabulary.decode(fresh)
        if fresh_text:
            del self._ids[: self._certain]
            self._certain, self._context_text = len(fresh), fresh_text
        else:
            self._certain, self._context_text = end, text
        return piece


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    if tokenizer.decoder is None:
        return False
    state = json.loads(tokenizer.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    return [step["type"] for step in steps] == ["ByteLevel"]


def _byte_level_alphabet() -> str:
    """GPT-2's printable character for each byte, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters = []
    substitute = 0x100
    for byte in range(0x100):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(substitute))
            substitute += 1
    return "".join(characters)
