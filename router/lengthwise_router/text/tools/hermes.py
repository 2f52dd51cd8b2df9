"""`<tool_call>{"name": …, "arguments": …}</tool_call>`, as Hermes and Qwen write calls."""

import re
from collections.abc import Sequence
from typing import Final

from lengthwise_router.text.tools.blocks import BlockParser
from lengthwise_router.text.tools.drafts import CallsText, JsonDraft
from lengthwise_router.text.tools.grammar import calls_grammar, json_call_rules
from lengthwise_router.text.tools.json_calls import FIRST_CALL, between_calls, read_calls
from lengthwise_router.text.tools.parts import Function, FunctionCall, PartsParser

BEGIN: Final = "<tool_call>"
END: Final = "</tool_call>"

_BETWEEN: Final = re.compile(r"\s*")
_OTHERS: Final = between_calls(r"\s*")


class HermesFormat:
    """See above."""

    markers: Final = (BEGIN, END)

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        names = {function.name for function in functions}

        def read(body: str) -> list[FunctionCall]:
            return read_calls(body, names, _BETWEEN)

        def begin() -> CallsText:
            return CallsText(read, JsonDraft(names, FIRST_CALL, _OTHERS))

        return BlockParser(begin, BEGIN, END, quotes=True)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        rules = json_call_rules(functions, before=f"{BEGIN}\n", key="arguments", after=f"\n{END}")
        return calls_grammar(rules, before="", between="\n" if parallel else "", after="")
