"""The text that every machine with Python has: the standard library of the Python that runs this.

The demo model was trained on it, but for the files that are held out; which those are depends only
on the sorted list of files.
"""

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

# Tables, fixtures and test suites: much text, little Python worth imitating.
SKIPPED_FOLDERS: Final = {
    *("site-packages", "dist-packages", "test", "tests", "__phello__"),
    *("encodings", "idlelib", "lib2to3", "pydoc_data"),
}
HELD_OUT_EVERY: Final = 25

T = TypeVar("T")


def python_sources() -> list[tuple[str, str]]:
    """Name and text of every file, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.isdisjoint(relative.parts) and not path.name.startswith("_sysconfig"):
            text = path.read_text(encoding="utf-8")
            if text.strip():
                found.append((str(relative), text))
    return found


def held_out(files: Sequence[T]) -> Sequence[T]:
    """Those that the demo model has not read."""
    return files[::HELD_OUT_EVERY]
