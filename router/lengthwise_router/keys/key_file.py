"""The file of API keys → its entries. It has the keys' hashes alone: a key is 256 random bits, so
that nobody finds one by trying, and a plain SHA-256 at rest is enough.

Messages name file, entry and field, and never what is in the field: it may be a key by mistake.
"""

import dataclasses
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from yaml.composer import Composer

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

# A third of the time.
_LOADERS: Final[Any] = (Composer, yaml.CSafeLoader) if yaml.__with_libyaml__ else (yaml.SafeLoader,)


class _EntryLoader(*_LOADERS):  # type: ignore[misc]  # one or the other
    """Makes one entry at a time: the nodes of 10,000 would stop the event loop for as long as the
    garbage collector looks at them, and as it takes to free them."""

    def __init__(self, text: str) -> None:
        for base in _LOADERS:
            base.__init__(*((self,) if base is Composer else (self, text)))

    def entries(self) -> Iterator[Any]:
        """Errors: YAMLError, and whatever values raise that are none of their tag."""
        self.get_event()  # the stream's start
        if not self.check_event(yaml.DocumentStartEvent):
            raise yaml.YAMLError("empty")
        self.get_event()
        if not self.check_event(yaml.SequenceStartEvent):
            raise yaml.YAMLError("no list")
        self.get_event()
        while not self.check_event(yaml.SequenceEndEvent):
            yield self.construct_document(self.compose_node(None, None))
        self.get_event()
        self.get_event()  # the document's end
        if not self.check_event(yaml.StreamEndEvent):
            raise yaml.YAMLError("a second document")

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Errors: YAMLError for a field that is there twice: the last one would count."""
        names = [key.value for key, _ in node.value]
        if len({str(name) for name in names}) < len(names):
            raise yaml.constructor.ConstructorError(
                problem="a field is there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


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
    entries = []
    for number, fields in enumerate(_fields_of_entries(path, _read(path)), 1):
        if number > MAX_KEYS:
            raise ConfigError(f"keys file {path}: expected at most {MAX_KEYS} entries")
        entries.append(_entry(path, number, fields))
    _check_unique(path, entries)
    return tuple(entries)


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


def _fields_of_entries(path: Path, text: bytes) -> Iterator[Any]:
    """What YAML's own messages quote of the file is left out."""
    where = ""
    try:
        yield from _EntryLoader(text.decode()).entries()
        return
    except yaml.MarkedYAMLError as error:
        if mark := error.problem_mark:
            where = f": line {mark.line + 1}, column {mark.column + 1}"
    except Exception as error:  # of values that are none of their tag: KeyError, …
        where = f": {type(error).__name__}"
    raise ConfigError(f"keys file {path}: expected a list of entries, as YAML in UTF-8{where}")


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
