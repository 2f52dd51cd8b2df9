"""`{"name": …, "parameters": …}`, as Llama 3 writes calls: an answer that is nothing else, or
what is after `<|python_tag|>`."""

import re
from collections.abc import Sequence
from typing import Final

from lengthwise_router.text.tools.blocks import BeginCalls, BlockParser
from lengthwise_router.text.tools.drafts import CallsText, JsonDraft
from lengthwise_router.text.tools.grammar import calls_grammar, json_call_rules
from lengthwise_router.text.tools.json_calls import FIRST_CALL, between_calls, read_calls
from lengthwise_router.text.tools.parts import (
    MAX_SPACE,
    Content,
    Function,
    FunctionCall,
    Part,
    PartsParser,
)

TAG: Final = "<|python_tag|>"

_BETWEEN: Final = re.compile(r"[;\s]*")
_OTHERS: Final = between_calls(r"[;\s]*")

_FIRST_KEYS: Final = ("name", "type", "parameters", "arguments", "id")
_OPENING: Final = re.compile(r'\s*(?:\{\s*(?:"(?P<key>[a-z]*)(?P<closed>")?)?)?')


class LlamaFormat:
    """See above."""

    markers: Final = (TAG,)

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        names = {function.name for function in functions}

        def read(body: str) -> list[FunctionCall]:
            return read_calls(body, names, _BETWEEN)

        return LlamaParser(lambda: CallsText(read, JsonDraft(names, FIRST_CALL, _OTHERS)))

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        rules = json_call_rules(functions, before="", key="parameters", after="")
        return calls_grammar(rules, before="", between="; " if parallel else "", after="")


class LlamaParser:
    """Holds an answer back as long as it may be calls, but for what is told of them."""

    def __init__(self, begin: BeginCalls) -> None:
        self._begin = begin
        self._held = ""
        self._calls: CallsText | None = None
        self._text: BlockParser | None = None

    def append(self, text: str) -> list[Part]:
        if self._text is not None:
            return self._text.append(text)
        if self._calls is not None:
            return self._calls.append(text)
        self._held += text
        is_json = _is_json(self._held)
        if is_json is None:
            return []
        text, self._held = self._held, ""
        if is_json:
            self._calls = self._begin()
            return self._calls.append(text)
        self._text = BlockParser(self._begin, TAG, None, quotes=True)
        return self._text.append(text)

    def finish(self) -> list[Part]:
        if self._text is not None:
            return self._text.finish()
        parts: list[Part] = []
        text = self._held
        if self._calls is not None:
            parts, were_calls = self._calls.close()
            text = "" if were_calls else self._calls.text
        return [*parts, Content(text)] if text else parts


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
