"""Texts → token ids: short ones at once, longer ones in threads, where no text waits for one of
another size.

Always by `encode_batch_fast`, which releases the interpreter lock; `encode` holds it.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tokenizers import Encoding, Tokenizer

from lengthwise_wire.errors import InvalidRequest, Overloaded, PromptTooLong

INLINE_CHARACTERS = 2_048
"""Shorter texts are encoded on the event loop: at most half a millisecond, where handing them to a
thread costs 0.08 ms of CPU by itself (600 characters: 0.11 ms inline, 0.19 ms through the pool)."""

USUAL_CHARACTERS = 1 << 14
"""Encoding so many takes 5 to 15 ms."""

LONG_CHARACTERS = 1 << 18
"""Encoding so many takes 0.1 to 0.25 s. Longer texts are very long."""

PIECE_CHARACTERS = 1 << 16
"""Encoding so many takes 25 MB at most."""

LONG_SPACE_CHARACTERS = 1 << 13
"""So much white space, and more, is looked at by itself."""

_SPACE: Final = re.compile(r"[^\S\x1c-\x1f]+")
"""White space as tokenizers know it; Python's has four characters more."""

_BESIDE = 1_024
"""So many characters on either side show what becomes of white space: tokens are shorter."""

_LARGEST_CHARACTER = "\ufdfa"
"""Compatibility decomposition makes 18 characters of it, and less of any other."""

MAX_WAITING_CHARACTERS = 16 << 20
"""Of the texts of one size that wait."""


class _Lane:
    """Threads for texts of one size."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"tokenizer-{name}")
        self._characters = 0

    def run(
        self, encode: Callable[[str, str, bool], list[int]], text: str, field: str, special: bool
    ) -> asyncio.Future[list[int]]:
        """Errors: Overloaded."""
        size = len(text)
        if self._characters + size > MAX_WAITING_CHARACTERS:
            raise Overloaded(
                f"{self._name} texts of {self._characters} characters wait to be tokenised, and"
                f" {MAX_WAITING_CHARACTERS} are the most that may"
            )

        def encoded(_: object) -> None:
            self._characters -= size

        self._characters += size
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, encode, text, field, special)
        future.add_done_callback(encoded)
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class TextEncoder:
    """The tokenizer of one model, and its threads."""

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, context_length: int, threads: int
    ) -> None:
        """`threads`: for texts of usual length."""
        self._tokenizer = tokenizer
        self._growth = _growth(tokenizer)
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._usual = _Lane("usual", threads)
        self._long = _Lane("long", 1)
        self._very_long = _Lane("very long", 1)

    def encode(
        self, text: str, field: str, *, special: bool
    ) -> "list[int] | asyncio.Future[list[int]]":
        """The token ids, or a future of them where they take a while; `special`: with those that
        the tokenizer puts around a text.

        Errors: InvalidRequest naming the field, PromptTooLong, Overloaded; the future's too.
        """
        size = len(text) * self._growth_of(text)
        if size <= INLINE_CHARACTERS:
            return self._encode(text, field, special)
        if size <= USUAL_CHARACTERS:
            return self._usual.run(self._encode, text, field, special)
        lane = self._long if size <= LONG_CHARACTERS else self._very_long
        return lane.run(self._encode_long, text, field, special)

    def close(self) -> None:
        for lane in (self._usual, self._long, self._very_long):
            lane.close()

    def _growth_of(self, text: str) -> int:
        """How many characters the normaliser can make of one."""
        return 1 if text.isascii() else self._growth

    def _encode_long(self, text: str, field: str, special: bool) -> list[int]:
        """A text of more than four characters for each token of the context is encoded in pieces
        first, to see whether it can fit: encoding 4 MiB of digits at once takes 1.3 GB.

        A cut changes the tokens beside it only, so pieces that come to twice the context belong to
        a text that does not fit.
        """
        if len(text) * self._growth_of(text) > 4 * self._context_length:
            num_tokens = 0
            for piece, end in self._pieces(text, field):
                num_tokens += len(self._encoding(piece, field, False))
                if num_tokens > 2 * self._context_length:
                    raise PromptTooLong(
                        f"{field}: got {len(text)} characters; the first {end} come to"
                        f" {num_tokens} tokens already, and the context holds"
                        f" {self._context_length} in all"
                    )
        return self._encode(text, field, special)

    def _pieces(self, text: str, field: str) -> Iterator[tuple[str, int]]:
        """Pieces of a text, and where they end in it. White space at cuts is left out, and so is
        what an end of the text or a token beside it swallows: any number of spaces."""
        size = PIECE_CHARACTERS // self._growth_of(text)
        done = 0
        for start, end in (*_long_spaces(text), (len(text), len(text))):
            for piece, at in _cut(text, done, start, size):
                yield piece.strip(), at
            if start < end and not self._is_swallowed(text, start, end, field):
                for piece, at in _cut(text, start, end, PIECE_CHARACTERS):
                    yield f"x{piece}x", at
            done = end

    def _is_swallowed(self, text: str, start: int, end: int, field: str) -> bool:
        """Whether more of this white space comes to no more tokens than its first character."""
        before = text[max(start - LONG_SPACE_CHARACTERS - _BESIDE, 0) : start].rstrip()[-_BESIDE:]
        after = text[end : end + _BESIDE]
        short, longer = (
            len(self._encoding(before + text[start : start + size] + after, field, False))
            for size in (1, _BESIDE)
        )
        return longer <= short

    def _encode(self, text: str, field: str, special: bool) -> list[int]:
        token_ids = self._encoding(text, field, special).ids
        if not token_ids:
            raise InvalidRequest(f"{field}: comes to no tokens, expected at least one")
        highest = max(token_ids)
        if highest >= self._vocab_size:
            raise InvalidRequest(
                f"{field}: got {self._tokenizer.id_to_token(highest)!r}, which is token {highest}"
                f" of the tokenizer; the model has {self._vocab_size} tokens; leave it out"
            )
        return token_ids

    def _encoding(self, text: str, field: str, special: bool) -> Encoding:
        try:
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        # A panic of the tokenizer's is no Exception. Nothing else that is none comes from there.
        except BaseException as error:
            raise InvalidRequest(
                f"{field}: the model's tokenizer fails on it: {error or type(error).__name__}"
            ) from error
        return encoding


def _cut(text: str, start: int, end: int, size: int) -> Iterator[tuple[str, int]]:
    for at in range(start, end, size):
        stop = min(at + size, end)
        yield text[at:stop], stop


def _long_spaces(text: str) -> Iterator[tuple[int, int]]:
    """Where white space is and ends: all that is twice as long as is looked at, but for its first
    characters. Little at a time, for the interpreter's lock is held."""
    start = 0
    while start < len(text):
        end = start
        while space := _SPACE.match(text, end, end + PIECE_CHARACTERS):
            end = space.end()
        if end - start >= LONG_SPACE_CHARACTERS:
            yield start, end
        start = max(end, start + LONG_SPACE_CHARACTERS)


def _growth(tokenizer: Tokenizer) -> int:
    normalizer = tokenizer.normalizer
    try:
        return 1 if normalizer is None else len(normalizer.normalize_str(_LARGEST_CHARACTER)) or 1
    except BaseException:  # as in `_encoding`
        return 1
