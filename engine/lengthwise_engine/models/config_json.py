"""Typed access to a checkpoint's JSON files.

The rule: a value of the wrong kind is an error that names the file, the key, what was found and
what was expected; nothing is coerced.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lengthwise_engine.errors import CheckpointError, UnsupportedModel


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
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: not found; expected a Hugging Face checkpoint folder"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, got {type(values).__name__}")
        return cls(path, values)

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def keys(self) -> list[str]:
        """All keys, those with a null value too."""
        return list(self._values)

    def error(self, key: str, message: str) -> CheckpointError:
        """An error about `key`, to be raised by the caller."""
        return CheckpointError(f"{self.path}: {self._where}{key}: {message}")

    def unsupported(self, key: str, message: str) -> UnsupportedModel:
        """The same for a sound value that the engine does not implement."""
        return UnsupportedModel(f"{self.path}: {self._where}{key}: {message}")

    def value(self, key: str) -> object:
        """Whatever stands under `key`; None if it is absent."""
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(key, f"expected an integer >= {minimum}, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(key, f"expected a number, got {value!r}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, got {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"expected a string, got {value!r}")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, empty if the key is absent."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"expected a list of strings, got {value!r}")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """An integer or a list of them, empty if the key is absent."""
        value = self._get(key, [])
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self.error(key, f"expected an integer or a list of them, got {value!r}")
        return tuple(items)

    def object(self, key: str) -> "ConfigJson":
        """The object under `key`, empty if the key is absent."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"expected an object, got {value!r}")
        return ConfigJson(self.path, value, f"{self._where}{key}.")

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "missing")
        return value
