"""`[TOOL_CALLS]`, as Mistral writes calls: a JSON list of them, or for each one the marker, its
name, `[ARGS]` and its arguments."""

import re
from collections.abc import Sequence
from typing import Final

from lengthwise_router.text.tools.blocks import BlockParser
from lengthwise_router.text.tools.drafts import CallsText, JsonDraft
from lengthwise_router.text.tools.grammar import calls_grammar, json_call_rules
from lengthwise_router.text.tools.json_calls import (
    NAME_TAIL,
    OBJECT_HEAD,
    between_calls,
    read_calls,
    read_value,
    whole_arguments,
)
from lengthwise_router.text.tools.parts import Function, FunctionCall, PartsParser

BEGIN: Final = "[TOOL_CALLS]"

_MARKS: Final = r"(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*"
_NAMED: Final = re.compile(rf"\s*(?P<name>[\w.-]+){_MARKS}(?P<arguments>\{{.*)", re.DOTALL)
_BETWEEN: Final = re.compile(r"\s*(?:,\s*(?=\{)|\Z)")

_FIRST: Final = re.compile(
    rf"\s*(?:\[\s*{OBJECT_HEAD})?(?P<name>[\w.-]+)(?:{NAME_TAIL}|{_MARKS})(?=\{{)"
)
_OTHERS: Final = between_calls(r"\s*,\s*")


class MistralFormat:
    """See above."""

    markers: Final = (BEGIN, "[ARGS]", "[CALL_ID]")

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        names = {function.name for function in functions}

        def read(body: str) -> list[FunctionCall]:
            if named := _NAMED.fullmatch(body):
                name, arguments = named["name"], named["arguments"]
                if name not in names:
                    raise ValueError("it names none of the functions")
                return [whole_arguments(name, read_value(arguments), arguments)]
            body = body.strip()
            if not (body.startswith("[") and body.endswith("]")):
                raise ValueError("it is neither a list nor a name")
            return read_calls(body[1:-1].strip(), names, _BETWEEN)

        def begin() -> CallsText:
            return CallsText(read, JsonDraft(names, _FIRST, _OTHERS))

        return BlockParser(begin, BEGIN, None, quotes=True, begun=is_forced)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        """Without the marker, a special token, which no grammar has."""
        rules = json_call_rules(functions, before="", key="arguments", after="")
        return calls_grammar(rules, before="[", between=", " if parallel else "", after="]")
