"""Traces of real deployments, in every format that is published: read row by row, refused with the
file, the row, what was found and what is accepted.

    Azure      CSV   TIMESTAMP (ISO), ContextTokens, GeneratedTokens
    BurstGPT   CSV   Timestamp (s), Request tokens, Response tokens, and, if there is, Session ID
    lengths    CSV   prompt_tokens, output_tokens, and, if there is, arrived_at (s)
    Mooncake   JSON  timestamp (ms), input_length, output_length, hash_ids of blocks of 512 tokens
"""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.workload.planned import MAX_TOKENS
from lengthwise_simulator.workload.text import Text, TextSpan

HASHED_TOKENS = 512
"""In one of Mooncake's blocks."""

OWN_KEYS = 1 << 38
"""Keys from here on are of texts that no other request shares; below it are Mooncake's."""

SESSION_KEYS = 1 << 39
"""And from here on of BurstGPT's sessions."""


class TraceRow(NamedTuple):
    arrived_at: float | None
    """Seconds after the first row; None in a trace of lengths alone."""
    prompt_tokens: int
    output_tokens: int
    text: Text


class _Fields(NamedTuple):
    """Where a format keeps what is needed; `seconds` turns its time into seconds."""

    at: str | None
    prompt: str
    output: str
    seconds: Callable[[Any], float] = float


_FORMATS = (
    _Fields("TIMESTAMP", "ContextTokens", "GeneratedTokens", lambda text: _iso_seconds(text)),
    _Fields("Timestamp", "Request tokens", "Response tokens"),
    _Fields("arrived_at", "prompt_tokens", "output_tokens"),
    _Fields(None, "prompt_tokens", "output_tokens"),
)
_MOONCAKE = _Fields("timestamp", "input_length", "output_length", lambda ms: float(ms) / 1e3)
_SESSION = "Session ID"


def read_trace(path: Path, most: int | None = None) -> list[TraceRow]:
    """The first `most` rows, in the order of their times. Errors: SimulationError, OSError.

    Rows of BurstGPT without response tokens are left out: they are requests that failed.
    """
    rows: list[TraceRow] = []
    begin: float | None = None
    try:
        with _open(path) as file:
            for where, row in _rows(path, file):
                if most is not None and len(rows) == most:
                    break
                at = row.arrived_at
                if at is not None:
                    begin = at if begin is None else begin
                    at -= begin
                    if rows and rows[-1].arrived_at is not None and at < rows[-1].arrived_at:
                        raise SimulationError(
                            f"{where}: time goes back to {at:g} s, after {rows[-1].arrived_at:g} s;"
                            " expected rows in the order of arrival"
                        )
                rows.append(row._replace(arrived_at=at))
    except UnicodeDecodeError as error:
        raise SimulationError(f"{path}: not UTF-8: {error.reason}; expected CSV or JSON") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise SimulationError(f"{path}: not gzip: {error}") from error
    if not rows:
        raise SimulationError(f"{path}: holds no request, expected a row for each")
    return rows


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _rows(path: Path, file: TextIO) -> Iterator[tuple[str, TraceRow]]:
    first = file.read(1)
    file.seek(0)
    yield from _json_rows(path, file) if first == "{" else _csv_rows(path, file)


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[str, TraceRow]]:
    reader = csv.DictReader(file)
    try:
        names = reader.fieldnames or ()
        found = next(
            (one for one in _FORMATS if {one.at, one.prompt, one.output} - {None} <= {*names}), None
        )
        if found is None:
            accepted = " or ".join(
                "/".join(name for name in (one.at, one.prompt, one.output) if name)
                for one in _FORMATS
            )
            raise SimulationError(
                f"{path}, line 1: got columns {', '.join(names)[:200] or 'none'},"
                f" expected {accepted}"
            )
        for number, values in enumerate(reader):
            where = f"{path}, line {reader.line_num}"
            if found.prompt == "Request tokens" and values.get(found.output) in ("0", "0.0"):
                continue
            text_key = OWN_KEYS + number
            session = values.get(_SESSION)
            if session:
                text_key = SESSION_KEYS + _integer(where, _SESSION, session, least=0)
            row = _row(where, found, values)
            yield where, row._replace(text=(TextSpan(text_key, row.prompt_tokens),))
    except csv.Error as error:
        raise SimulationError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path, file: TextIO) -> Iterator[tuple[str, TraceRow]]:
    for number, line in enumerate(file, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SimulationError(f"{where}: not JSON: {error}; expected an object") from error
        if not isinstance(values, dict):
            raise SimulationError(f"{where}: got {line.strip()[:40]!r}, expected a JSON object")
        row = _row(where, _MOONCAKE, values)
        keys = values.get("hash_ids") or []
        if not isinstance(keys, list) or (len(keys) * HASHED_TOKENS < row.prompt_tokens and keys):
            raise SimulationError(
                f"{where}: hash_ids: got {str(keys)[:40]}, expected one id for each"
                f" {HASHED_TOKENS} of the {row.prompt_tokens} tokens"
            )
        spans = [
            TextSpan(_integer(where, "hash_ids", key, least=0, most=OWN_KEYS - 1), HASHED_TOKENS)
            for key in keys[: -(-row.prompt_tokens // HASHED_TOKENS)]
        ]
        yield (
            where,
            row._replace(text=tuple(spans) or (TextSpan(OWN_KEYS + number, row.prompt_tokens),)),
        )


def _row(where: str, fields: _Fields, values: Mapping[str, Any]) -> TraceRow:
    at = None
    if fields.at is not None:
        found = values.get(fields.at)
        try:
            at = fields.seconds(found)
        except (ValueError, TypeError, OverflowError):
            at = inf
        if not -inf < at < inf:
            raise SimulationError(f"{where}: {fields.at}: got {found!r}, expected a time")
    return TraceRow(
        at,
        _integer(where, fields.prompt, values.get(fields.prompt), least=1, most=MAX_TOKENS),
        _integer(where, fields.output, values.get(fields.output), least=1, most=MAX_TOKENS),
        (),
    )


def _integer(where: str, name: str, value: object, *, least: int, most: int = OWN_KEYS) -> int:
    """Pandas writes columns with holes as 12.0."""
    number: float = -inf
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = -inf
    if not (least <= number <= most and number == int(number)):
        raise SimulationError(
            f"{where}: {name}: got {value!r}, expected an integer from {least} to {most}"
        )
    return int(number)


def _iso_seconds(text: str) -> float:
    """Azure's have seven digits of a second, one more than Python reads; without a zone they are
    UTC."""
    at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
