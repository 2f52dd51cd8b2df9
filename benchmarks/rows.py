"""Rows of results. Each begins with when, on which commit and on what machine it was measured.

`python -m rows NAME FILE` appends the rows of a CSV file that a test run has written.
"""

import csv
import io
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LENGTHWISE_BENCHMARK_DATA", HERE / "data"))


def conditions() -> dict[str, str]:
    """The columns that begin every row."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    }


def append_rows(name: str, rows: Sequence[Mapping[str, object]], folder: Path = DATA) -> None:
    """Appends rows to <folder>/<name>.csv, writing the header first where the file is new.

    Where they could not name the code that they measured they are printed instead; rows may bring
    a `commit` of their own. Errors: ValueError when the columns are not those of the file: give the
    new table a new name.
    """
    full = [{**conditions(), **row} for row in rows]
    if "commit" not in rows[0] and (reason := why_no_commit()):
        print(f"{name}: not recorded, {reason}\n{_as_csv(full)}", end="", flush=True)
        return
    path, fields = folder / f"{name}.csv", list(full[0])
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
        if header != fields:
            raise ValueError(f"{path}: has columns {header}, got rows with {fields}")
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(_as_csv(full, header=new))
    print(f"{len(full)} rows appended to {path}", flush=True)


def _as_csv(rows: Sequence[Mapping[str, object]], *, header: bool = True) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def why_no_commit() -> str:
    """Why no commit holds the code that runs here; empty if one does. Rows of earlier benchmarks
    are no code."""
    if not _git("rev-parse", "HEAD"):
        return "because this is no git checkout"
    everywhere_but_data = (":/", ":!data")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *everywhere_but_data)
    if changed:
        return f"because tracked files differ from the commit:\n{changed}"
    new = _git("ls-files", "--others", "--exclude-standard", "--", ":/*.py")
    return f"because modules are not tracked:\n{new}" if new else ""


def _git(*arguments: str) -> str:
    """What it prints; empty where it fails or is not installed."""
    if shutil.which("git") is None:
        return ""
    result = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=HERE, timeout=10
    )
    return result.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    name, path = sys.argv[1:]
    with Path(path).open(encoding="utf-8", newline="") as file:
        append_rows(name, list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
