"""`<tool_call><function=…><parameter=…>…`, as Qwen3-Coder writes calls."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lengthwise_router.text.tools.blocks import BlockParser
from lengthwise_router.text.tools.grammar import calls_grammar, json_value, literal
from lengthwise_router.text.tools.hermes import BEGIN, END
from lengthwise_router.text.tools.json_calls import read_value, write_arguments
from lengthwise_router.text.tools.parts import Function, FunctionCall, PartsParser

PARAMETER_END: Final = "</parameter>"

_FUNCTION: Final = re.compile(r"\s*<function=([^<>\n]+)>")
_PARAMETER: Final = re.compile(r"\s*<parameter=([^<>\n]+)>\n?")
_END: Final = re.compile(r"\s*</function>\s*")


class QwenCoderFormat:
    """See above."""

    markers: Final = (BEGIN, END)

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        known = {function.name: function for function in functions}

        def read(body: str) -> list[FunctionCall]:
            return [_call(body, known)]

        return BlockParser(read, BEGIN, END, quotes=False)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        rules: list[str] = []
        for index, function in enumerate(functions):
            names = []
            required = function.parameters.get("required")
            for place, (name, schema) in enumerate(_properties(function).items()):
                rule = f"value_{index}_{place}"
                is_needed = isinstance(required, list) and name in required
                opening = literal(f"<parameter={name}>\n")
                names.append(f"({opening} {rule}){'' if is_needed else '?'}")
                rules.append(f"{rule}{_value_rule(schema, function)}")
            opening = literal(f"{BEGIN}\n<function={function.name}>\n")
            closing = literal(f"</function>\n{END}")
            rules.append(f"call_{index}: {opening} {' '.join(names)} {closing}")
        return calls_grammar(rules, before="", between="\n" if parallel else "", after="")


def _properties(function: Function) -> Mapping[str, Any]:
    properties = function.parameters.get("properties")
    return properties if isinstance(properties, dict) else {}


def _is_text(schema: object) -> bool:
    """Written as it is, without quotes."""
    return isinstance(schema, dict) and schema.get("type") == "string"


def _value_rule(schema: Any, function: Function) -> str:
    """Of a parameter's value, and its end."""
    ending = f"\n{PARAMETER_END}\n"
    if not _is_text(schema):
        shared = {name: function.parameters.get(name, {}) for name in ("$defs", "definitions")}
        whole = {**shared, **schema} if isinstance(schema, dict) else {}
        return f": {json_value(whole, strict=function.strict)} {literal(ending)}"
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(choices, list) and choices and all(isinstance(one, str) for one in choices):
        return f": ({' | '.join(map(literal, choices))}) {literal(ending)}"
    least, most = (schema.get(name) for name in ("minLength", "maxLength"))
    bounds = f"{least if type(least) is int else 0},{most if type(most) is int else ''}"
    return f"[suffix={literal(ending)}]: /(?s:.{{{bounds}}})/"


def _call(body: str, known: Mapping[str, Function]) -> FunctionCall:
    """Errors: ValueError."""
    opening = _FUNCTION.match(body)
    if opening is None or opening[1] not in known:
        raise ValueError("it names none of the functions")
    properties = _properties(known[opening[1]])
    arguments: dict[str, Any] = {}
    place = opening.end()
    while parameter := _PARAMETER.match(body, place):
        end = body.find(PARAMETER_END, parameter.end())
        name = parameter[1]
        if end < 0 or name in arguments:
            raise ValueError("a parameter does not end, or is there twice")
        value = body[parameter.end() : end].removesuffix("\n")
        if any(opened in properties for opened in _PARAMETER.findall(value)):
            raise ValueError("a parameter does not end before another begins")
        arguments[name] = value if _is_text(properties.get(name)) else _value(value)
        place = end + len(PARAMETER_END)
    if not _END.fullmatch(body, place):
        raise ValueError("it does not end with </function>")
    return FunctionCall(opening[1], write_arguments(arguments))


def _value(text: str) -> Any:
    """What a parameter that is no text may have: JSON, or else what stands there."""
    try:
        value = read_value(text)
        json.dumps(value, allow_nan=False)
    except ValueError:
        return text
    return value
