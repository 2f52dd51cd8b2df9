"""JSON that a model wrote → calls. Whatever is not wholly understood is none."""

import json
import re
from collections.abc import Collection
from typing import Any, Final, NoReturn

from lengthwise_router.text.tools.parts import FunctionCall

_KEYS: Final = frozenset({"name", "arguments", "parameters", "id", "type"})


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


def read_values(text: str, separators: str) -> list[Any]:
    """JSON values with any of the characters between and after them. Errors: ValueError."""
    values = []
    between = re.compile(rf"[{re.escape(separators)} \n\r\t]*")
    place = len(text) - len(text.lstrip())
    while place < len(text):
        try:
            value, end = _DECODER.raw_decode(text, place)
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        values.append(value)
        after = between.match(text, end)
        assert after is not None, "it may be empty"
        place = after.end()
    return values


def write_arguments(arguments: dict[str, Any]) -> str:
    """Errors: ValueError for a number beyond a float's."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return json.dumps(arguments)
    return text


def call_of(value: object, names: Collection[str]) -> FunctionCall:
    """Errors: ValueError where it is no call of one of the functions, or says more than that."""
    if not isinstance(value, dict) or not value.keys() <= _KEYS:
        raise ValueError("it is not an object of a call")
    name, kind = value.get("name"), value.get("type", "function")
    if not isinstance(name, str) or name not in names or kind != "function":
        raise ValueError("it names none of the functions")
    given = [value[key] for key in ("arguments", "parameters") if key in value] or [{}]
    arguments = read_value(given[0]) if isinstance(given[0], str) else given[0]
    if len(given) > 1 or not isinstance(arguments, dict):
        raise ValueError("it has no arguments")
    return FunctionCall(name, write_arguments(arguments))
