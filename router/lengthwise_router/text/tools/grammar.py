"""Grammars of calls, in llguidance's Lark: `start` is one call, or several."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lengthwise_router.text.tools.parts import Function

_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As templates write JSON."""

_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")


def literal(text: str) -> str:
    """A text as it is."""
    return json.dumps(text)


def json_value(schema: Mapping[str, Any], *, strict: bool) -> str:
    """A JSON value that a schema accepts; unless `strict`, what no grammar can keep to is passed
    over."""
    text = json.dumps({**schema, "x-guidance": {**_STYLE, "lenient": not strict}})
    if not strict and "(?" in text:
        text = json.dumps(json.loads(text, object_hook=_without_look_around))
    return "%json " + text


def _without_look_around(schema: dict[str, Any]) -> dict[str, Any]:
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and _LOOK_AROUND.search(pattern):
        del schema["pattern"]
    return schema


def calls_grammar(rules: Sequence[str], *, before: str, between: str, after: str) -> str:
    """One of the rules `call_0`, `call_1`, …, which the given ones define; and more of them, with
    `between` between them, where that is no empty text."""
    num_calls = sum(rule.startswith("call_") for rule in rules)
    call = " | ".join(f"call_{index}" for index in range(num_calls))
    more = f" ({literal(between)} call)*" if between else ""
    around = [f"{literal(text)} " if text else "" for text in (before, after)]
    return "\n".join([f"start: {around[0]}call{more} {around[1]}", f"call: {call}", *rules, ""])


def json_call_rules(
    functions: Sequence[Function], *, before: str, key: str, after: str
) -> list[str]:
    """A call as an object of a name, and of its arguments under a key."""
    rules = []
    for index, function in enumerate(functions):
        opening = f'{before}{{"name": {json.dumps(function.name)}, "{key}": '
        rules += [
            f"call_{index}: {literal(opening)} arguments_{index} {literal('}' + after)}",
            f"arguments_{index}: {json_value(function.parameters, strict=function.strict)}",
        ]
    return rules
