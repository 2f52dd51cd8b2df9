"""What the commands print to: terminals of any width, files, and streams that know ASCII alone."""

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 160
"""Columns, where the output goes to a file or another program."""

_IN_ASCII = str.maketrans({"→": "->", "·": "-", "…": "...", "█": "#", "│": "|", "≤": "<="})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_GAP = 2
"""Blanks between the columns of a table."""


def prepare_streams() -> None:
    """No text can fail to be printed: what standard output cannot encode is escaped, as Python does
    on standard error. Standard input is UTF-8, whatever the locale."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def knows_unicode(stream: IO[str] | None) -> bool:
    encoding = getattr(stream, "encoding", None)
    return encoding is None or encoding.lower().replace("-", "").startswith("utf")


def fit_encoding(text: str, stream: IO[str] | None) -> str:
    """The same with ASCII in the place of our own signs, where the stream knows nothing else."""
    return text if knows_unicode(stream) else text.translate(_IN_ASCII)


def harmless(text: str) -> str:
    """Without what would command the terminal: parts of it are others' texts."""
    return _CONTROL.sub("·", text)


def say(text: str = "") -> None:
    """A remark on standard error, beside the output proper. On a terminal it is broken between
    words; elsewhere a line stays a line."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    told = fit_encoding(harmless(text), sys.stderr)
    console.print(told, soft_wrap=not console.is_terminal)


def make_console() -> Console:
    """On standard output. NO_COLOR, TERM and COLUMNS are respected."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console


@dataclass(frozen=True, slots=True)
class Column:
    """Of a table that fits any width."""

    name: str
    is_number: bool = True
    rank: int = 0
    """Where the terminal is too narrow, columns of the highest rank are left out first."""


LATENCIES = (
    Column("class", is_number=False),
    Column("requests", rank=2),
    Column("TTFT p50"),
    Column("p90", rank=3),
    Column("p99"),
    Column("TPOT p50", rank=1),
    Column("p90", rank=3),
    Column("p99", rank=1),
)
"""Of requests that were sent, by length class."""


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], console: Console
) -> Table:
    """A table of the columns that fit, each as wide as its widest cell; what is left too wide even
    so is cut."""

    def width_of(index: int) -> int:
        cells = (str(row[index]) for row in rows)
        return max(map(cell_len, (columns[index].name, *cells)))

    kept = list(range(len(columns)))
    while len(kept) > 1 and sum(width_of(index) + _GAP for index in kept) - _GAP > console.width:
        highest = max(columns[index].rank for index in kept)
        kept.remove([index for index in kept if columns[index].rank == highest][-1])
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for index in kept:
        justify: Literal["left", "right"] = "right" if columns[index].is_number else "left"
        table.add_column(columns[index].name, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row[index], console) for index in kept))
    return table


def _cell(cell: str | Text, console: Console) -> Text:
    text = cell if isinstance(cell, Text) else Text(harmless(cell))
    text.plain = fit_encoding(text.plain, console.file)
    return text


def own_name() -> str:
    """As this command can be typed again."""
    started_as = Path(sys.argv[0])
    found = shutil.which("lengthwise")
    if started_as.name != "lengthwise" or (found and Path(found).samefile(started_as)):
        return "lengthwise"
    with contextlib.suppress(ValueError):
        return str(started_as.absolute().relative_to(Path.cwd()))
    return str(started_as)
