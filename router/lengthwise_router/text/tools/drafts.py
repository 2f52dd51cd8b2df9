"""Calls as they are being written: what of them can be told before the last of their text is there.

A draft is a guess of good odds: whether a text is one of calls is known at its end alone.
"""

import re
from collections.abc import Callable, Collection
from typing import Final, Protocol

from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallsEnd,
    CallStart,
    FunctionCall,
    Part,
)

ReadCalls = Callable[[str], list[FunctionCall]]
"""Of a whole text. Errors: ValueError."""

MAX_OPENING: Final = 512
"""Characters before the arguments of a call; names have 64 at most."""


class CallsDraft(Protocol):
    """Of one text of calls."""

    def append(self, text: str) -> list[CallStart | CallArguments]:
        """What is told of calls after a further piece: of each the beginning of what will be read,
        if anything is."""


class CallsText:
    """The text of one or several calls, as it comes."""

    def __init__(self, read: ReadCalls, draft: CallsDraft) -> None:
        self._read = read
        self._draft = draft
        self._pieces: list[str] = []
        self._begun: list[tuple[str, list[str]]] = []  # names, and arguments that were told

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def append(self, text: str) -> list[Part]:
        self._pieces.append(text)
        told = self._draft.append(text)
        for part in told:
            if isinstance(part, CallStart):
                self._begun.append((part.name, []))
            else:
                self._begun[-1][1].append(part.text)
        return [*told]

    def close(self) -> tuple[list[Part], bool]:
        """What is still to be told, and whether it was calls."""
        calls = self._calls()
        if not calls:
            return ([CallsEnd(is_void=True)] if self._begun else []), False
        parts: list[Part] = []
        for index, call in enumerate(calls):
            num_told = 0
            if index < len(self._begun):
                num_told = sum(map(len, self._begun[index][1]))
            else:
                parts.append(CallStart(call.name))
            if rest := call.arguments[num_told:]:
                parts.append(CallArguments(rest))
        return [*parts, CallsEnd()], True

    def _calls(self) -> list[FunctionCall]:
        try:
            calls = self._read(self.text)
        except ValueError:
            return []
        begun = [(name, "".join(texts)) for name, texts in self._begun]
        fit = all(
            call.name == name and call.arguments.startswith(told)
            for call, (name, told) in zip(calls, begun, strict=False)
        )
        return calls if fit and len(begun) <= len(calls) else []


class JsonDraft:
    """Of JSON objects of a name and arguments, in this order."""

    def __init__(self, names: Collection[str], first: re.Pattern[str], others: re.Pattern[str]):
        """Patterns of what stands before the arguments of the first call, and of what stands
        between those of others; each with a group `name`."""
        self._names = names
        self._opening = first
        self._others = others
        self._held: str | None = ""  # before arguments; None: no more can be told
        self._arguments: JsonText | None = None

    def append(self, text: str) -> list[CallStart | CallArguments]:
        parts: list[CallStart | CallArguments] = []
        while text and self._held is not None:
            if self._arguments is None:
                held = self._held + text
                opening = self._opening.match(held[:MAX_OPENING])
                if opening is None or opening["name"] not in self._names:
                    is_hopeless = opening is not None or len(held) >= MAX_OPENING
                    self._held = None if is_hopeless else held
                    break
                parts.append(CallStart(opening["name"]))
                self._held, text = "", held[opening.end() :]
                self._opening, self._arguments = self._others, JsonText()
            told, rest = self._arguments.append(text)
            if told:
                parts.append(CallArguments(told))
            if rest is None:
                break
            text, self._arguments = rest, None
        return parts


_PLACES: Final = re.compile(r'\\.|["{}\[\]\x00-\x1f]', re.DOTALL)


class JsonText:
    """An object or array as a model wrote it, but for line breaks and the like in its strings,
    which are escaped."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_quoted = False
        self._tail = ""

    def append(self, text: str) -> tuple[str, str | None]:
        """What is certain, and what is after its end, if that has come."""
        text, self._tail = self._tail + text, ""
        made: list[str] = []
        start = end = 0
        for found in _PLACES.finditer(text):
            mark, end = found[0], found.end()
            if mark == '"':
                self._is_quoted = not self._is_quoted
            elif self._is_quoted and mark < " ":
                made += (text[start : found.start()], f"\\u{ord(mark):04x}")
                start = end
            elif not self._is_quoted and mark in "{[":
                self._depth += 1
            elif not self._is_quoted and mark in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return "".join((*made, text[start:end])), text[end:]
        if text.endswith("\\") and end < len(text):
            self._tail, text = "\\", text[:-1]
        return "".join((*made, text[start:])), None


def escaped(text: str) -> str:
    """A whole object, as drafts tell it."""
    return JsonText().append(text)[0]
