"""What is known of a tokenizer's tokens."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from tokenizers import Tokenizer

_BYTE_TOKEN: Final = re.compile(r"<0x[+0-9A-Fa-f][0-9A-Fa-f]>\Z")
"""As the byte-fallback decoder reads numbers: with a sign."""

_MOST_AT_ONCE: Final = 1_024
"""More tokens are decoded without the interpreter's lock, which costs 0.05 ms more."""


class Vocabulary:
    """Looks each token up once."""

    def __init__(self, tokenizer: Tokenizer, *, cleans_up: bool = False) -> None:
        """`cleans_up`: as in `TextFiles`."""
        self.cleans_up = cleans_up
        self._tokenizer = tokenizer
        self.is_byte_level = _is_byte_level(tokenizer)
        self._bytes_of_characters = {
            character: byte for byte, character in enumerate(_byte_level_alphabet())
        }
        self.special_ids: Final[Mapping[str, int]] = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        """Of the tokens that have no text in an answer, by what the tokenizer reads as them."""
        self.special_lengths: Final = sorted(set(map(len, self.special_ids)), reverse=True)
        self._special = frozenset(self.special_ids.values())
        self._bytes: dict[int, bytes] = {}
        self._is_shown: dict[int, bool] = {}
        self._is_byte: dict[int, bool] = {}

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
        """Whether a token that `is_shown` is a byte-fallback token."""
        return self._is_byte[token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        if len(token_ids) <= _MOST_AT_ONCE:
            return self._tokenizer.decode(token_ids, skip_special_tokens=True)
        (text,) = self._tokenizer.decode_batch([token_ids], skip_special_tokens=True)
        return text

    def whole_text(self, token_ids: Sequence[int]) -> str:
        """With special tokens by their names."""
        (text,) = self._tokenizer.decode_batch([token_ids], skip_special_tokens=False)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for within a text; a special one for its name, an unknown id for
        nothing."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._special:
            return (token or "").encode()
        if self.is_byte_level:
            return self.bytes_of((token_id,))
        if _BYTE_TOKEN.match(token):
            return bytes([int(token[3:-1], 16) % 0x100])
        # Decoders strip from the start of a text: what a second one adds is whole.
        return self.decode((token_id, token_id))[len(self.decode((token_id,))) :].encode()

    def context(self, token_ids: Sequence[int]) -> tuple[list[int], str]:
        """The shown tokens at the end that what follows is decoded with, and their text.

        They are few, do not begin within a run of bytes, and have text: a context without would
        not absorb what a decoder strips from the start.
        """
        start, size = len(token_ids), 1
        while True:
            start = max(start - size, 0)
            while start and (not self.is_shown(token_ids[start]) or self.is_byte(token_ids[start])):
                start -= 1
            shown = [token_id for token_id in token_ids[start:] if self.is_shown(token_id)]
            text = self.decode(shown)
            if text or not start:
                return shown, text
            size = len(token_ids) - start

    def _look_up(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        bytes_of = self._bytes_of_characters
        if all(character in bytes_of for character in token):
            return bytes(bytes_of[character] for character in token)
        return token.encode()  # an added token is its own text


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
