"""Texts → token ids: short ones at once, longer ones in a thread, very long ones in another thread
that nothing shorter waits for.

Always by `encode_batch_fast`, which releases the interpreter lock; `encode` holds it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tokenizers import Encoding, Tokenizer

from lengthwise_wire.errors import InvalidRequest, Overloaded, PromptTooLong

INLINE_CHARACTERS = 2_048
"""Shorter texts are encoded on the event loop: at most half a millisecond, where handing them to a
thread costs 0.08 ms of CPU by itself (600 characters: 0.11 ms inline, 0.19 ms through the pool)."""

LONG_CHARACTERS = 1 << 16
"""Longer texts are long: encoding so many takes 20 to 60 ms and at most 25 MB."""

MAX_LONG_CHARACTERS = 16 << 20
"""Of the long texts that wait, in all."""


class TextEncoder:
    """The tokenizer of one model, and its threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        context_length: int,
        threads: int,
        max_waiting: int,
    ) -> None:
        """`threads`: for texts that are not long, of which at most `max_waiting` wait."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._usual = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-long")
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._long_characters = 0

    def encode(
        self, text: str, field: str, *, special: bool
    ) -> "list[int] | asyncio.Future[list[int]]":
        """The token ids, or a future of them where they take a while; `special`: with those that
        the tokenizer puts around a text.

        Errors: InvalidRequest naming the field, PromptTooLong, Overloaded; the future's too.
        """
        if len(text) <= INLINE_CHARACTERS:
            return self._encode(text, field, special)
        loop = asyncio.get_running_loop()
        if len(text) <= LONG_CHARACTERS:
            if self._num_waiting >= self._max_waiting:
                raise Overloaded(
                    f"{self._num_waiting} texts wait to be tokenised, the most that may"
                )
            self._num_waiting += 1
            usual = loop.run_in_executor(self._usual, self._encode, text, field, special)
            usual.add_done_callback(self._encoded)
            return usual
        size = len(text)
        if self._long_characters + size > MAX_LONG_CHARACTERS:
            raise Overloaded(
                f"texts of {self._long_characters} characters wait to be tokenised, and"
                f" {MAX_LONG_CHARACTERS} are the most that may"
            )
        self._long_characters += size
        long = loop.run_in_executor(self._long, self._encode_long, text, field, special)
        long.add_done_callback(self._long_encoded(size))
        return long

    def close(self) -> None:
        for pool in (self._usual, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    def _encoded(self, _: object) -> None:
        self._num_waiting -= 1

    def _long_encoded(self, num_characters: int) -> Callable[[object], None]:
        def encoded(_: object) -> None:
            self._long_characters -= num_characters

        return encoded

    def _encode_long(self, text: str, field: str, special: bool) -> list[int]:
        """A text of more than four characters for each token of the context is encoded in pieces
        first, to see whether it can fit: encoding 4 MiB of digits at once takes 1.3 GB.

        A cut changes the tokens beside it only, so pieces that come to twice the context belong to
        a text that does not fit. White space at a cut is left out: some tokens swallow any number
        of spaces beside them.
        """
        if len(text) > 4 * self._context_length:
            num_tokens = 0
            for start in range(0, len(text), LONG_CHARACTERS):
                piece = text[start : start + LONG_CHARACTERS].strip()
                num_tokens += len(self._encoding(piece, field, False))
                if num_tokens > 2 * self._context_length:
                    raise PromptTooLong(
                        f"{field}: got {len(text)} characters; the first"
                        f" {start + LONG_CHARACTERS} of them come to more than {num_tokens} tokens,"
                        f" and the context holds {self._context_length} in all"
                    )
        return self._encode(text, field, special)

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
