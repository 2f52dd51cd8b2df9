"""The file of API keys → its entries. It has the keys' hashes alone: a key is 256 random bits, so
that nobody finds one by trying, and a plain SHA-256 at rest is enough.

Messages name file, entry and field, and never what is in the field: it may be a key by mistake.
"""

import dataclasses
import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lengthwise_policy.admission.usage import UsageLimits
from lengthwise_runtime.config import STRICT, ConfigError
from lengthwise_wire.limits import MAX_TENANT_CHARACTERS, REQUEST_NUMBERS

MAX_KEYS: Final = 10_000

MAX_HASHES: Final = 8
"""Of one entry."""

MAX_FILE_BYTES: Final = 8 << 20

MAX_LIMIT: Final = 10**12

SELECTOR_DIGITS: Final = 16
"""Of a hash, by which its entry is found; the rest is compared in constant time."""

_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")

# 2.5 s instead of 7.5 s for 10,000 entries.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """One holder of keys, who is a tenant."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str  # the tenant
    # Hex, of the key; several while one key takes another's place.
    sha256: str | tuple[str, ...] = field(repr=False)
    priority: int = 0  # the most its requests may ask for, and what they get by default
    models: tuple[str, ...] | None = None  # those it may use; not given: all
    admin: bool = False  # may call GetStatus, and Explain of any tenant
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and outputs
    max_concurrent: int | None = None  # requests

    @property
    def hashes(self) -> tuple[str, ...]:
        given = (self.sha256,) if isinstance(self.sha256, str) else self.sha256
        return tuple(each.lower() for each in given)

    @property
    def limits(self) -> UsageLimits:
        return UsageLimits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            max_concurrent=self.max_concurrent,
        )

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 1 <= len(self.name) <= MAX_TENANT_CHARACTERS:
            raise ValueError(f"name: expected 1 to {MAX_TENANT_CHARACTERS} printable characters")
        if not 1 <= len(self.hashes) <= MAX_HASHES or not all(map(_HASH.fullmatch, self.hashes)):
            raise ValueError("sha256: expected the 64 hexadecimal digits of a key's SHA-256")
        lowest, highest = REQUEST_NUMBERS["priority"].low, REQUEST_NUMBERS["priority"].high
        if not lowest <= self.priority <= highest:
            raise ValueError(f"priority: got {self.priority}, expected {lowest} to {highest}")
        for name in ("requests_per_minute", "tokens_per_minute", "max_concurrent"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_LIMIT:
                raise ValueError(f"{name}: expected 1 to {MAX_LIMIT}")


_ENTRY: Final = TypeAdapter(KeyEntry)

_FIELDS: Final = ", ".join(each.name for each in dataclasses.fields(KeyEntry))


def read_key_file(path: Path) -> tuple[KeyEntry, ...]:
    """Errors: ConfigError, in one line."""
    entries = _parsed(path, _read(path))
    if not isinstance(entries, list):
        raise ConfigError(f"keys file {path}: expected a list of entries")
    if len(entries) > MAX_KEYS:
        raise ConfigError(
            f"keys file {path}: got {len(entries)} entries, expected at most {MAX_KEYS}"
        )
    found = tuple(_entry(path, number, each) for number, each in enumerate(entries, 1))
    _check_unique(path, found)
    return found


def _open(path: str, flags: int) -> int:
    """Only a regular file: a FIFO would be waited for, and never read to its end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file")
    return descriptor


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open) as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"keys file {path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"keys file {path}: expected at most {MAX_FILE_BYTES} bytes")
    return text


def _parsed(path: Path, text: bytes) -> Any:
    """What YAML's own messages quote of the file is left out."""
    try:
        return yaml.load(text.decode(), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f": line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        where = ""
    raise ConfigError(f"keys file {path}: not YAML in UTF-8{where}")


def _entry(path: Path, number: int, fields: Any) -> KeyEntry:
    try:
        return _ENTRY.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    name = fields.get("name") if isinstance(fields, dict) else None
    who = f"entry {number}" + (
        f" ({name[:MAX_TENANT_CHARACTERS]!r})" if isinstance(name, str) else ""
    )
    if first["type"] == "unexpected_keyword_argument":
        where, reason = "", f"got another field than {_FIELDS}"
    else:
        where = "".join(f"{part}: " for part in first["loc"][:1])
        reason = first["msg"].removeprefix("Value error, ")
    raise ConfigError(f"keys file {path}: {who}: {where}{reason}")


def _check_unique(path: Path, entries: Sequence[KeyEntry]) -> None:
    """Errors: ConfigError."""
    names: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        where = f"keys file {path}: entry {number} ({entry.name!r})"
        first = names.setdefault(entry.name, number)
        if first != number:
            raise ConfigError(f"{where}: name: entry {first} has it too")
        for each in entry.hashes:
            selector = each[:SELECTOR_DIGITS]
            if selector in hashes:
                raise ConfigError(f"{where}: sha256: entry {hashes[selector]} has the same key")
            hashes[selector] = number
