"""`[TOOL_CALLS]`, as Mistral writes calls: a JSON list of them, or for each one the marker, its
name, `[ARGS]` and its arguments."""

import re
from collections.abc import Sequence
from typing import Final

from lengthwise_router.text.tools.blocks import BlockParser
from lengthwise_router.text.tools.grammar import calls_grammar, json_call_rules
from lengthwise_router.text.tools.json_calls import call_of, read_value
from lengthwise_router.text.tools.parts import Function, FunctionCall, PartsParser

BEGIN: Final = "[TOOL_CALLS]"

_NAMED: Final = re.compile(
    r"\s*(?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?(?P<arguments>\s*\{.*)", re.DOTALL
)


class MistralFormat:
    """See above."""

    markers: Final = (BEGIN, "[ARGS]", "[CALL_ID]")

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        names = {function.name for function in functions}

        def read(body: str) -> list[FunctionCall]:
            if named := _NAMED.fullmatch(body):
                arguments = read_value(named["arguments"])
                return [call_of({"name": named["name"], "arguments": arguments}, names)]
            values = read_value(body)
            return [call_of(one, names) for one in (values if isinstance(values, list) else ())]

        return BlockParser(read, BEGIN, None, quotes=True, begun=is_forced)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        """Without the marker, a special token, which no grammar has."""
        rules = json_call_rules(functions, before="", key="arguments", after="")
        return calls_grammar(rules, before="[", between=", " if parallel else "", after="]")
