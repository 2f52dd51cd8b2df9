"""`{"name": …, "parameters": …}`, as Llama 3 writes calls: an answer that is nothing else, or
what is after `<|python_tag|>`."""

import re
from collections.abc import Sequence
from typing import Final

from lengthwise_router.text.tools.blocks import BlockParser, ReadCalls
from lengthwise_router.text.tools.grammar import calls_grammar, json_call_rules
from lengthwise_router.text.tools.json_calls import call_of, read_values
from lengthwise_router.text.tools.parts import (
    MAX_SPACE,
    Content,
    Function,
    FunctionCall,
    Part,
    PartsParser,
)

TAG: Final = "<|python_tag|>"

_FIRST_KEYS: Final = ("name", "type", "parameters", "arguments", "id")
_OPENING: Final = re.compile(r'\s*(?:\{\s*(?:"(?P<key>[a-z]*)(?P<closed>")?)?)?')


class LlamaFormat:
    """See above."""

    markers: Final = (TAG,)

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        names = {function.name for function in functions}

        def read(body: str) -> list[FunctionCall]:
            return [call_of(value, names) for value in read_values(body, ";")]

        return LlamaParser(read)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        rules = json_call_rules(functions, before="", key="parameters", after="")
        return calls_grammar(rules, before="", between="; " if parallel else "", after="")


class LlamaParser:
    """Holds an answer back as long as it may be calls."""

    def __init__(self, read: ReadCalls) -> None:
        self._read = read
        self._held: list[str] = []
        self._is_json: bool | None = None
        self._text = BlockParser(read, TAG, None, quotes=True)

    def append(self, text: str) -> list[Part]:
        if self._is_json is False:
            return self._text.append(text)
        self._held.append(text)
        if self._is_json is None:
            held = "".join(self._held)
            self._held = [held]
            self._is_json = _is_json(held)
            if self._is_json is False:
                return self._text.append(held)
        return []

    def finish(self) -> list[Part]:
        if self._is_json is False:
            return self._text.finish()
        text = "".join(self._held)
        try:
            calls: list[Part] = [*self._read(text)]
        except ValueError:
            calls = []
        return calls or ([Content(text)] if text else [])


def _is_json(text: str) -> bool | None:
    """Whether a text begins as calls do; None: that cannot be said yet."""
    opening = _OPENING.match(text)
    assert opening is not None
    key = opening["key"]
    if opening.end() > MAX_SPACE:
        return False
    if opening["closed"]:
        return key in _FIRST_KEYS
    is_open = opening.end() == len(text)
    may_be = is_open and any(first.startswith(key or "") for first in _FIRST_KEYS)
    return None if may_be else False
