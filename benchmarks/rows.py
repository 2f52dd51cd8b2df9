"""Rows of results: every one carries when, on which commit and on what machine it was measured."""

import csv
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

DATA = Path(__file__).parent / "data"


def conditions() -> dict[str, str]:
    """The columns that begin every row."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    }


def append_rows(name: str, rows: Sequence[Mapping[str, object]], folder: Path = DATA) -> Path:
    """Appends rows to <folder>/<name>.csv, writing the header first where it is new.

    Errors: ValueError when the columns are not those of the file: give the new table a new name.
    """
    path = folder / f"{name}.csv"
    full = [{**conditions(), **row} for row in rows]
    fields = list(full[0])
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
        if header != fields:
            raise ValueError(f"{path}: has columns {header}, got rows with {fields}")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(full)
    return path


def _commit() -> str:
    if shutil.which("git") is None:
        return ""

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, cwd=DATA, timeout=10
        )
        return result.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{git('rev-parse', '--short', 'HEAD')}{changed}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
