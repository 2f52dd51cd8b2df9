"""`<think>…</think>` before an answer."""

from enum import Enum, auto
from typing import Final

from lengthwise_router.text.overlap import overlap
from lengthwise_router.text.tools.parts import MAX_SPACE, Content, Part, Reasoning

BEGIN: Final = "<think>"
END: Final = "</think>"


class _State(Enum):
    BEFORE = auto()
    OPENED = auto()
    WITHIN = auto()
    CLOSED = auto()
    AFTER = auto()


class ThinkParser:
    """Parts the reasoning, without its markers and the line breaks beside them, from the rest."""

    def __init__(self, *, begins_within: bool) -> None:
        """`begins_within`: the prompt has the first marker."""
        self._state = _State.OPENED if begins_within else _State.BEFORE
        self._tail = ""

    def append(self, text: str) -> list[Part]:
        parts: list[Part] = []
        text, self._tail = self._tail + text, ""
        if self._state is _State.BEFORE:
            begun = text.lstrip()
            if len(text) - len(begun) > MAX_SPACE:
                self._state = _State.AFTER
            elif begun.startswith(BEGIN):
                self._state, text = _State.OPENED, begun.removeprefix(BEGIN)
            elif BEGIN.startswith(begun):
                self._tail = text
            else:
                self._state = _State.AFTER
        if self._state is _State.OPENED and (text := text.lstrip("\n")):
            self._state = _State.WITHIN
        if self._state is _State.WITHIN:
            text = self._within(text, parts)
        if self._state is _State.CLOSED and (text := text.lstrip("\n")):
            self._state = _State.AFTER
        if self._state is _State.AFTER and text:
            parts.append(Content(text))
        return parts

    def finish(self) -> list[Part]:
        tail, self._tail = self._tail, ""
        if not tail:
            return []
        return [Reasoning(tail) if self._state is _State.WITHIN else Content(tail)]

    def _within(self, text: str, parts: list[Part]) -> str:
        """The text after it."""
        thought, marker, rest = text.partition(END)
        if marker:
            self._state = _State.CLOSED
            thought = _without_breaks(thought)
        else:
            end = len(thought) - overlap(thought, END)
            end = len(_without_breaks(thought[:end]))
            self._tail, thought = thought[end:], thought[:end]
        if thought:
            parts.append(Reasoning(thought))
        return rest


def _without_breaks(text: str) -> str:
    """Without the two at its end: so many are waited through."""
    return text.removesuffix("\n").removesuffix("\n")
