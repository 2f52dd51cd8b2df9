"""Values of the wrong kind: one line with the file, the key, what was got and what was expected."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError

Get = Callable[[ConfigJson], Any]

WRONG: dict[str, tuple[str, Get, str]] = {
    "missing": ("{}", lambda c: c.integer("key"), "missing"),
    "null": ('{"key": null}', lambda c: c.integer("key"), "missing"),
    "text for a number": ('{"key": "3"}', lambda c: c.integer("key"), "an integer >= 1, got '3'"),
    "true for an integer": (
        '{"key": true}',
        lambda c: c.integer("key"),
        "an integer .*got True",
    ),
    "true for a number": ('{"key": true}', lambda c: c.number("key"), "a finite number, got True"),
    "too small": ('{"key": 0}', lambda c: c.integer("key"), "an integer >= 1, got 0"),
    "too large": ('{"key": 1e18}', lambda c: c.integer("key"), "an integer >= 1, got 1e"),
    "far too large": (
        f'{{"key": {10**18}}}',
        lambda c: c.integer("key"),
        "an integer <= 2147483647, got 1000000000000000000",
    ),
    "NaN": ('{"key": NaN}', lambda c: c.number("key"), "a finite number, got nan"),
    "Infinity": ('{"key": -Infinity}', lambda c: c.number("key"), "a finite number, got -inf"),
    "1e999": ('{"key": 1e999}', lambda c: c.number("key"), "a finite number, got inf"),
    "no float": (f'{{"key": {10**400}}}', lambda c: c.number("key"), "a finite number, got 1000"),
    "out of bounds": (
        '{"key": 2}',
        lambda c: c.number("key", minimum=0, maximum=1),
        "a finite number >= 0 and <= 1, got 2",
    ),
    "no boolean": ('{"key": 1}', lambda c: c.boolean("key", True), "true or false, got 1"),
    "no string": ('{"key": []}', lambda c: c.text("key"), r"a string, got \[\]"),
    "no strings": ('{"key": ["a", 1]}', lambda c: c.texts("key"), "a list of strings, got"),
    "no token ids": ('{"key": [1, true]}', lambda c: c.token_ids("key"), "an integer >= 0 or a"),
    "negative id": ('{"key": -1}', lambda c: c.token_ids("key"), "an integer >= 0 or a list"),
    "no object": ('{"key": [1]}', lambda c: c.object("key"), r"an object, got \[1\]"),
    "long": (
        json.dumps({"key": "x" * 9999}),
        lambda c: c.integer("key"),
        r"an integer >= 1, got '.{70,80}'$",
    ),
    "deep": (
        '{"key": ' + "[" * 500 + "]" * 500 + "}",
        lambda c: c.integer("key"),
        r"an integer >= 1, got \[",
    ),
}


@pytest.mark.parametrize(("text", "get", "message"), WRONG.values(), ids=WRONG)
def test_a_value_of_the_wrong_kind_is_named(
    text: str, get: Get, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"^{path}: key: (expected )?{message}") as caught:
        get(ConfigJson.read(path))
    assert len(str(caught.value)) < len(str(path)) + 200


def test_keys_of_nested_objects_are_named_with_their_path(tmp_path: Path) -> None:
    config = ConfigJson(tmp_path, {"a": {"b": {"c": "x"}}})
    with pytest.raises(CheckpointError, match=r": a\.b\.c: expected an integer"):
        config.object("a").object("b").integer("c")


BROKEN: dict[str, tuple[bytes, str]] = {
    "cut off": (b"{", "not valid JSON"),
    "a list": (b"[]", "expected a JSON object, got list"),
    "deeply nested": (b'{"a": ' + b"[" * 100_000, "not valid JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_json_object_is_named(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}: {message}"):
        ConfigJson.read(path)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match=f"^{path}: not found"):
        ConfigJson.read(path)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"^{path}: not a regular file"):
        ConfigJson.read(path)
    assert ConfigJson.read_optional(tmp_path / "absent.json").keys() == []
