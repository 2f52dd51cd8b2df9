"""YAML file → frozen dataclass. The only place that knows YAML and pydantic; unknown keys, wrong
types and contradicting values are refused with the path of the field."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid")
"""Every configuration dataclass carries this as `__pydantic_config__`."""


class ConfigError(Exception):
    """The configuration file cannot be used; the message lists every field that is wrong."""


def load_config(path: Path, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Reads and validates a configuration file.

    `overrides`: "KEY=VALUE" replaces what the file says; dots in KEY lead into sections. VALUE is
    text, validated as the key's type: numbers and true or false can be had, lists cannot.

    Errors: ConfigError naming the file and each offending field.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not YAML: {error}") from error
    return make_config({} if data is None else data, cls, overrides, f"configuration {path}")


def make_config(data: Any, cls: type[T], overrides: Sequence[str], source: str) -> T:
    """What `load_config` makes of a file's content. `source` is what messages call it.

    Errors: ConfigError.
    """
    for override in overrides:
        _set(data, override)
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, item['loc'])) or '(top level)'}: {item['msg']}"
            + (f", got {item['input']!r}" if _is_worth_showing(item) else "")
            for item in error.errors()
        ]
        raise ConfigError("\n".join([f"{source} is invalid:", *lines])) from error


def _is_worth_showing(item: ErrorDetails) -> bool:
    """Only a single value of a known key: whole sections may hold what is not to be repeated, and
    a check of ours (value_error) has said what it got."""
    is_section = isinstance(item["input"], dict | list)
    is_told = item["type"] in ("value_error", "missing", "unexpected_keyword_argument")
    return not (is_section or is_told)


def _set(data: Any, override: str) -> None:
    """Errors: ConfigError for what is no KEY=VALUE, or leads into something that has no keys."""
    name, separator, value = override.partition("=")
    *sections, key = name.split(".")
    if not separator or not all((*sections, key)):
        raise ConfigError(f"--set: got {override!r}, expected KEY=VALUE")
    for section in sections:
        if isinstance(data, dict):
            data = data.setdefault(section, {})
    if not isinstance(data, dict):
        raise ConfigError(f"--set {override}: got {data!r} above {key}, expected keys and values")
    data[key] = value


@dataclass(frozen=True, slots=True)
class Address:
    """host and port of a TCP listener or peer."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "host:port" or "[v6]:port". Errors: ConfigError."""
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"not an address: got {text!r}, expected host:port")
        return cls(host.strip("[]"), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine reaches it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
