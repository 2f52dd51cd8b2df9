"""The text of one answer: what follows the prompt, up to a stop string.

Special tokens have no text in an answer but those that are to be shown, yet may be, or be part of,
a stop string. In what is matched a mark stands for each one that a stop string has: a surrogate,
which no text can hold.
"""

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Final

from lengthwise_router.text.detokenizer import detokenizer_after
from lengthwise_router.text.stop_strings import StopStrings
from lengthwise_router.text.vocabulary import Vocabulary

_FIRST_MARK: Final = 0xD800
_MARKS: Final = re.compile("[\ud800-\udfff]")


class AnswerText:
    """Takes an answer's tokens and gives the text that is certain after them."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompt_ids: Sequence[int],
        stop_strings: Sequence[str],
        min_tokens: int,
        shown: Collection[str] = (),
    ) -> None:
        """A stop string that completes within the first `min_tokens` does not count. `shown`: what
        the text has of special tokens."""
        self._detokenizer = detokenizer_after(prompt_ids, vocabulary)
        special = vocabulary.special_ids
        self._shown = {special[text]: text for text in shown if text in special}
        self._marks: dict[int, str] = {}
        strings = dict.fromkeys(
            [*stop_strings, *(self._marked(string, vocabulary) for string in stop_strings)]
        )
        self._stop_strings = StopStrings([*strings]) if strings else None
        self._min_tokens = min_tokens
        self._num_tokens = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has ended the text; nothing may be appended afterwards."""
        return self._stop_strings is not None and self._stop_strings.hit

    def append(self, token_ids: Sequence[int]) -> tuple[int, str]:
        """How many of the tokens count, and the text that is certain after them."""
        if self._stop_strings is None:
            return len(token_ids), self._decoded(token_ids)
        # One by one: the tokens after a stop string do not count.
        pieces = []
        for count, token_id in enumerate(token_ids, 1):
            pieces.append(self._append((token_id,)))
            if self.is_stopped:
                return count, "".join(pieces)
        return len(token_ids), "".join(pieces)

    def resume(self, token_ids: Sequence[int]) -> str:
        """The text of tokens that the caller has, faster than `append`."""
        if self._stop_strings is None:
            return self._decoded(token_ids)
        groups = groupby(enumerate(token_ids), self._group)
        return "".join(
            self._append([token_id for _, token_id in places])
            for _, places in groups
            if not self.is_stopped
        )

    def finish(self) -> str:
        """The text held back: no token follows."""
        text = self._detokenizer.finish()
        if self._stop_strings is None:
            return text
        if self.is_stopped:
            return ""
        given = self._stop_strings.append(text, may_end=self._may_end)
        return self._without_marks(given + self._stop_strings.finish())

    def _append(self, token_ids: Sequence[int]) -> str:
        """Tokens that all may end the text, or none; a marked one comes alone."""
        assert self._stop_strings is not None
        self._num_tokens += len(token_ids)
        if mark := self._marks.get(token_ids[0]):
            text = self._detokenizer.finish() + mark
        else:
            text = self._decoded(token_ids)
        return self._without_marks(self._stop_strings.append(text, may_end=self._may_end))

    def _decoded(self, token_ids: Sequence[int]) -> str:
        if self._shown.keys().isdisjoint(token_ids):
            return self._detokenizer.append(token_ids)
        pieces: list[str] = []
        for token_id in token_ids:
            if text := self._shown.get(token_id):
                pieces += (self._detokenizer.finish(), text)
            else:
                pieces.append(self._detokenizer.append((token_id,)))
        return "".join(pieces)

    def _group(self, place: tuple[int, int]) -> tuple[bool, int]:
        """The same for consecutive tokens that `_append` takes at once."""
        index, token_id = place
        return index >= self._min_tokens, index if token_id in self._marks else -1

    @property
    def _may_end(self) -> bool:
        return self._num_tokens > self._min_tokens

    def _marked(self, string: str, vocabulary: Vocabulary) -> str:
        """The string with marks for its special tokens: of several at one place the longest."""
        pieces, place = [], 0
        while place < len(string):
            for length in vocabulary.special_lengths:
                token_id = vocabulary.special_ids.get(string[place : place + length])
                if token_id is not None:
                    mark = chr(_FIRST_MARK + len(self._marks))
                    shown = self._shown.get(token_id)
                    pieces.append(shown or self._marks.setdefault(token_id, mark))
                    place += length
                    break
            else:
                pieces.append(string[place])
                place += 1
        return "".join(pieces)

    def _without_marks(self, text: str) -> str:
        return _MARKS.sub("", text) if self._marks else text
