"""`<tool_call><function=…><parameter=…>…`, as Qwen3-Coder writes calls."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lengthwise_router.text.tools.blocks import Block, BlockParser
from lengthwise_router.text.tools.drafts import MAX_OPENING, CallsText
from lengthwise_router.text.tools.grammar import calls_grammar, json_value, literal
from lengthwise_router.text.tools.hermes import BEGIN, END
from lengthwise_router.text.tools.json_calls import read_value, write_value
from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallStart,
    Function,
    FunctionCall,
    PartsParser,
)

PARAMETER_END: Final = "</parameter>"

_FUNCTION: Final = re.compile(r"\s*<function=([^<>\n]+)>")
_NAMED: Final = re.compile(r"<parameter=([^<>\n]+)>")
_PARAMETER: Final = re.compile(rf"\s*{_NAMED.pattern}\n?")
_PARAMETER_AND_MORE: Final = re.compile(_PARAMETER.pattern + r"+(?=.)", re.DOTALL)  # possessive
_END: Final = re.compile(r"\s*</function>\s*")


class QwenCoderFormat:
    """See above."""

    markers: Final = (BEGIN, END)

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        known = {function.name: function for function in functions}

        def read(body: str) -> list[FunctionCall]:
            return [_call(body, known)]

        def begin() -> CallsText:
            return CallsText(read, CoderDraft(known))

        return BlockParser(begin, BEGIN, END, quotes=False)

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
    arguments: dict[str, str] = {}
    place = opening.end()
    while parameter := _PARAMETER.match(body, place):
        end = body.find(PARAMETER_END, parameter.end())
        name = parameter[1]
        if end < 0 or name in arguments:
            raise ValueError("a parameter does not end, or is there twice")
        value = body[parameter.end() : end].removesuffix("\n")
        if any(opened in properties for opened in _NAMED.findall(value)):
            raise ValueError("a parameter does not end before another begins")
        arguments[name] = _written(value, properties.get(name))
        place = end + len(PARAMETER_END)
    if not _END.fullmatch(body, place):
        raise ValueError("it does not end with </function>")
    texts = [f"{write_value(name)}: {text}" for name, text in arguments.items()]
    return FunctionCall(opening[1], "{" + ", ".join(texts) + "}")


def _written(value: str, schema: object) -> str:
    """As JSON: what a parameter that is no text may have, or else what stands there."""
    if not _is_text(schema):
        try:
            return write_value(read_value(value))
        except ValueError:
            pass
    return write_value(value)


class CoderDraft:
    """Of a call as it is being written."""

    def __init__(self, known: Mapping[str, Function]) -> None:
        self._known = known
        self._held: str | None = ""  # between values; None: no more can be told
        self._properties: Mapping[str, Any] | None = None  # of the function, once it is known
        self._seen: set[str] = set()
        self._value: _ValueDraft | None = None

    def append(self, text: str) -> list[CallStart | CallArguments]:
        parts: list[CallStart | CallArguments] = []
        made: list[str] = []
        while text and self._held is not None:
            if self._value is not None:
                told, rest = self._value.append(text)
                made.append(told)
                if rest is None:
                    break
                self._value, text = None, rest
                continue
            held = self._held + text
            pattern = _FUNCTION if self._properties is None else _PARAMETER_AND_MORE
            found = pattern.match(held[:MAX_OPENING])
            if found is None:
                self._held = held if len(held) < MAX_OPENING else None
                break
            self._held, text = "", held[found.end() :]
            if self._properties is not None:
                self._begin_value(found[1])
            elif found[1] in self._known:
                self._properties = _properties(self._known[found[1]])
                parts.append(CallStart(found[1]))
            else:
                self._held = None
        arguments = "".join(made)
        return [*parts, CallArguments(arguments)] if arguments else parts

    def _begin_value(self, name: str) -> None:
        assert self._properties is not None
        if name in self._seen:
            self._held = None
            return
        before = f"{', ' if self._seen else '{'}{write_value(name)}: "
        self._seen.add(name)
        self._value = _ValueDraft(before, self._properties.get(name))


class _ValueDraft:
    """Of one value: a text is told as it comes, anything else when it is whole."""

    def __init__(self, before: str, schema: object) -> None:
        self._before = before  # in the arguments
        self._schema = schema
        self._block = Block(PARAMETER_END, quotes=False)
        self._pieces: list[str] = []
        self._break = ""  # a line break that may be the last

    def append(self, text: str) -> tuple[str, str | None]:
        """What is told of it, and what is after its end, if that has come."""
        certain, rest = self._block.append(text)
        if not _is_text(self._schema):
            self._pieces.append(certain)
            if rest is None:
                return "", None
            value = "".join(self._pieces).removesuffix("\n")
            return self._before + _written(value, self._schema), rest
        certain, self._break = self._break + certain, ""
        if certain.endswith("\n"):
            certain, self._break = certain[:-1], "\n"
        told = write_value(certain)
        told = self._before + (told if self._before else told[1:])
        self._before = ""
        return told if rest is not None else told[:-1], rest
