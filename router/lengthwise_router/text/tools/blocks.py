"""Calls that stand between markers in a text."""

import re
from collections.abc import Callable
from typing import Final

from lengthwise_router.text.overlap import overlap
from lengthwise_router.text.tools.drafts import CallsText
from lengthwise_router.text.tools.parts import MAX_SPACE, Content, Part

BeginCalls = Callable[[], CallsText]
"""Of what is between two markers."""


class BlockParser:
    """Texts between `begin` and `end` are read as calls; what cannot be is text like all else.

    White space after a call is left out unless text follows.
    """

    def __init__(
        self,
        begin_calls: BeginCalls,
        begin: str,
        end: str | None,
        *,
        quotes: bool,
        begun: bool = False,
    ) -> None:
        """`end` None: the end of the text, or the next `begin`. `quotes`: an end within a JSON
        string is none. `begun`: the text begins within a block, without its marker."""
        self._begin_calls = begin_calls
        self._begin = begin
        self._end = end
        self._quotes = quotes
        self._tail = ""  # outside of blocks: what may be the beginning of a marker
        self._space: str | None = None  # after a call
        self._opening = "" if begun else begin
        self._calls: CallsText | None = None  # within a block
        self._block = self._new_block()
        if begun:
            self._calls = begin_calls()

    def append(self, text: str) -> list[Part]:
        parts: list[Part] = []
        text, self._tail = self._tail + text, ""
        while text:
            if self._calls is None:
                before, marker, text = text.partition(self._begin)
                if not marker:
                    size = overlap(before, self._begin)
                    self._tail = before[len(before) - size :]
                    before = before[: len(before) - size]
                self._add_text(parts, before)
                if not marker:
                    break
                self._opening, self._block = self._begin, self._new_block()
                self._calls = self._begin_calls()
            certain, rest = self._block.append(text)
            parts += self._calls.append(certain)
            if rest is None:
                break
            self._close(parts, self._calls, self._end or "")
            text = rest if self._end else self._begin + rest
        return parts

    def finish(self) -> list[Part]:
        parts: list[Part] = []
        if self._calls is not None:
            parts += self._calls.append(self._block.finish())
            self._close(parts, self._calls, "")
        tail, self._tail = self._tail, ""
        self._add_text(parts, tail)
        return parts

    def _close(self, parts: list[Part], calls: CallsText, ending: str) -> None:
        self._calls = None
        told, were_calls = calls.close()
        parts += told
        if were_calls:
            self._space = ""
        else:
            self._add_text(parts, self._opening + calls.text + ending)

    def _add_text(self, parts: list[Part], text: str) -> None:
        if self._space is not None:
            text = self._space + text
            is_space = len(text) <= MAX_SPACE and not text.strip()
            self._space = text if is_space else None
            if self._space is not None:
                return
        if text:
            parts.append(Content(text))

    def _new_block(self) -> "Block":
        return Block(self._end or self._begin, quotes=self._quotes)


class Block:
    """The text up to an end marker."""

    def __init__(self, end: str, *, quotes: bool) -> None:
        self._end = end
        found = re.escape(end)
        self._pattern: Final = re.compile(rf'\\.|"|{found}' if quotes else found, re.DOTALL)
        self._tail = ""
        self._is_quoted = False

    def append(self, text: str) -> tuple[str, str | None]:
        """What is certain to be within, and what is after the end, if that has come."""
        text, self._tail = self._tail + text, ""
        seen = 0
        for match in self._pattern.finditer(text):
            seen = match.end()
            if match[0] == '"':
                self._is_quoted = not self._is_quoted
            elif match[0] == self._end and not self._is_quoted:
                return text[: match.start()], text[seen:]
        size = min(max(overlap(text, self._end), text.endswith("\\")), len(text) - seen)
        self._tail = text[len(text) - size :]
        return text[: len(text) - size], None

    def finish(self) -> str:
        """What was held back: no text follows."""
        tail, self._tail = self._tail, ""
        return tail
