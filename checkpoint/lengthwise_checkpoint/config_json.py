"""Typed access to a checkpoint's JSON files.

A value of the wrong kind is a `CheckpointError` naming the file, the key, what was got and what was
expected; nothing is coerced.
"""

import json
import math
import os
import reprlib
import stat
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel

MAX_INTEGER: Final = 2**31 - 1
"""Every count and token id fits in 32 bits, signed."""

MAX_FILE_BYTES: Final = 32 << 20
"""Of a JSON file or a template; the largest published ones have a few megabytes."""

_EXPECTED: Final = "expected a Hugging Face checkpoint folder"

_repr = reprlib.Repr()
_repr.maxstring = 80


class ConfigJson:
    """One JSON object of a file; `where` is the path of keys that leads to it.

    Getters take the key's value if it is there and not null, else `default`; without a default the
    key is required.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], where: str = "") -> None:
        self.path = path
        self._values = values
        self._where = where

    @classmethod
    def read(cls, path: Path) -> "ConfigJson":
        text = read_text(path)
        try:
            values = json.loads(text)
            if "\\ud" in text.lower():
                json.dumps(values, ensure_ascii=False).encode()  # fails for half a character
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, got {type(values).__name__}")
        return cls(path, values)

    @classmethod
    def read_optional(cls, path: Path) -> "ConfigJson":
        """The same; an empty object where there is no file."""
        return cls.read(path) if is_there(path) else cls(path, {})

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Through all keys, those with a null value too."""
        return iter(self._values)

    def keys(self) -> list[str]:
        """All keys, those with a null value too."""
        return list(self._values)

    def error(self, key: str, message: str) -> CheckpointError:
        """An error about `key`, to be raised by the caller."""
        return CheckpointError(f"{self.path}: {self._where}{key}: {message}")

    def unsupported(self, key: str, message: str) -> UnsupportedModel:
        """The same for a sound value that is not implemented."""
        return UnsupportedModel(f"{self.path}: {self._where}{key}: {message}")

    def value(self, key: str) -> object:
        """The value under `key`, of any kind; None if it is absent."""
        return self._values.get(key)

    def integer(
        self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_INTEGER
    ) -> int:
        value = self._get(key, default)
        if not _is_integer(value) or value < minimum:
            raise self._unexpected(key, value, f"an integer >= {minimum}")
        if value > maximum:
            raise self._unexpected(key, value, f"an integer <= {maximum}")
        return int(value)

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        minimum: float = -math.inf,
        maximum: float = math.inf,
    ) -> float:
        """A finite number."""
        value = self._get(key, default)
        is_number = isinstance(value, float) or _is_integer(value)
        if not is_number or not -1e300 < value < 1e300 or not minimum <= value <= maximum:
            lower = "" if minimum == -math.inf else f" >= {minimum:g}"
            upper = "" if maximum == math.inf else f" <= {maximum:g}"
            bounds = " and".join(bound for bound in (lower, upper) if bound)
            raise self._unexpected(key, value, f"a finite number{bounds}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._unexpected(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._unexpected(key, value, "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, empty if the key is absent."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._unexpected(key, value, "a list of strings")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them, empty if the key is absent."""
        value = self._get(key, [])
        items = value if isinstance(value, list) else [value]
        if not all(_is_integer(item) and 0 <= item <= MAX_INTEGER for item in items):
            raise self._unexpected(key, value, "an integer >= 0 or a list of them")
        return tuple(items)

    def listed(self, key: str) -> "ConfigJson":
        """The list under `key`, empty if the key is absent; its places are the keys, from 0 on."""
        value = self._get(key, [])
        if not isinstance(value, list):
            raise self._unexpected(key, value, "a list")
        items = {str(place): item for place, item in enumerate(value)}
        return ConfigJson(self.path, items, f"{self._where}{key}.")

    def object(self, key: str) -> "ConfigJson":
        """The object under `key`, empty if the key is absent."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self._unexpected(key, value, "an object")
        return ConfigJson(self.path, value, f"{self._where}{key}.")

    def below(self, prefix: str) -> "ConfigJson":
        """The values whose keys begin with `prefix`, by what follows it."""
        values = {
            key.removeprefix(prefix): value
            for key, value in self._values.items()
            if key.startswith(prefix)
        }
        return ConfigJson(self.path, values, f"{self._where}{prefix}")

    def overlaid_by(self, key: str) -> "ConfigJson":
        """The object under `key`, with the values of this one for the keys it lacks."""
        inner = self.object(key)
        return ConfigJson(self.path, {**self._values, **inner._values}, inner._where)

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "missing")
        return value

    def _unexpected(self, key: str, value: Any, expected: str) -> CheckpointError:
        return self.error(key, f"expected {expected}, got {_repr.repr(value)}")


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """A regular file's UTF-8 text. Raises `CheckpointError`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path}: not a regular file; {_EXPECTED}")
        if found.st_size > max_bytes:
            raise CheckpointError(
                f"{path}: got {found.st_size} bytes, expected at most {max_bytes}; {_EXPECTED}"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found; {_EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if text.startswith("\ufeff"):
        raise CheckpointError(f"{path}: begins with a byte order mark, expected plain UTF-8")
    return text


def is_there(path: Path) -> bool:
    """Whether the folder has an entry of this name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def shorten(message: str) -> str:
    """Another library's message as part of ours: one line, not too long."""
    return textwrap.shorten(message, 300, placeholder=" …")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
