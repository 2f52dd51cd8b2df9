"""JSON that a model wrote → calls. Whatever is not wholly understood is none."""

import json
import re
from collections.abc import Collection
from typing import Any, Final, NoReturn

from lengthwise_router.text.tools.drafts import escaped
from lengthwise_router.text.tools.parts import FunctionCall

_SPACE: Final = r"[ \n\r\t]*"
_MEMBER: Final = re.compile(rf'{_SPACE}"(name|arguments|parameters|id|type)"{_SPACE}:{_SPACE}')
_AFTER_MEMBER: Final = re.compile(rf"{_SPACE}([,}}])")

OBJECT_HEAD: Final = r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"'
NAME_TAIL: Final = r'"\s*,\s*"(?:arguments|parameters)"\s*:\s*'
"""Patterns of what stands around a call's name, before its arguments."""

_HEAD: Final = rf"{OBJECT_HEAD}(?P<name>[\w-]+){NAME_TAIL}(?=\{{)"
_TAIL: Final = r'\s*(?:,\s*"(?:id|type)"\s*:\s*"[\w-]*"\s*)*\}'

FIRST_CALL: Final = re.compile(rf"\s*{_HEAD}")


def between_calls(pattern: str) -> re.Pattern[str]:
    """From the arguments of one to those of the next, with a pattern between the two."""
    return re.compile(_TAIL + pattern + _HEAD)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name is there twice")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON does not know {constant}")


# Models put line breaks into strings.
_DECODER: Final = json.JSONDecoder(strict=False, object_pairs_hook=_unique, parse_constant=_refuse)


def read_value(text: str) -> Any:
    """One JSON value and white space. Errors: ValueError."""
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_calls(text: str, names: Collection[str], between: re.Pattern[str]) -> list[FunctionCall]:
    """Objects of calls, and what is between and after them. Errors: ValueError where one is no call
    of one of the functions, or says more than that."""
    calls = []
    place = len(text) - len(text.lstrip())
    while place < len(text):
        members, end = _members(text, place)
        calls.append(_call_of(members, names))
        after = between.match(text, end)
        if after is None:
            raise ValueError("something stands between calls")
        place = after.end()
    return calls


def whole_arguments(name: str, value: object, text: str) -> FunctionCall:
    """`value`: what `text` says. Errors: ValueError."""
    if not isinstance(value, dict):
        raise ValueError("it has no arguments")
    write_value(value)
    return FunctionCall(name, escaped(text))


def write_value(value: Any) -> str:
    """Errors: ValueError for a number beyond a float's."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return json.dumps(value)
    return text


def _members(text: str, place: int) -> tuple[dict[str, tuple[Any, str]], int]:
    """The values of an object, with their texts, and where it ends. Errors: ValueError."""
    members: dict[str, tuple[Any, str]] = {}
    if text[place] != "{":
        raise ValueError("it is no object")
    while text[place] != "}":
        member = _MEMBER.match(text, place + 1)
        if member is None or member[1] in members:
            raise ValueError("it is not an object of a call")
        try:
            value, end = _DECODER.raw_decode(text, member.end())
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        members[member[1]] = value, text[member.end() : end]
        after = _AFTER_MEMBER.match(text, end)
        if after is None:
            raise ValueError("it does not end")
        place = after.end() - 1
    return members, place + 1


def _call_of(members: dict[str, tuple[Any, str]], names: Collection[str]) -> FunctionCall:
    name, _ = members.get("name", (None, ""))
    kind, _ = members.get("type", ("function", ""))
    if not isinstance(name, str) or name not in names or kind != "function":
        raise ValueError("it names none of the functions")
    given = [members[key] for key in ("arguments", "parameters") if key in members]
    if len(given) > 1:
        raise ValueError("it has arguments twice")
    value, text = given[0] if given else ({}, "{}")
    if isinstance(value, str):
        value = read_value(value)
        text = write_value(value)
    return whole_arguments(name, value, text)
