"""Tests and benchmarks are independent: each runs without the other.

Only tests of benchmarks import them; those of the architecture hold what `structure` reports.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS, BENCHMARKS = ROOT / "tests", ROOT / "benchmarks"


def imports_of(path: Path) -> set[str]:
    """The top-level names that a file imports, wherever it does, programs in its strings too."""
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r"^[ \t]*(?:import|from) (\w+)", text, re.M))


def names_in(folder: Path) -> set[str]:
    """What can be imported from a source root."""
    return {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}


def offenders(folder: Path, names: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in sorted(imports_of(path))
        if name in names
    ]


def test_benchmarks_import_nothing_of_the_tests() -> None:
    assert not offenders(BENCHMARKS, names_in(TESTS) - names_in(BENCHMARKS))


def test_only_tests_of_benchmarks_import_them() -> None:
    found = offenders(TESTS, names_in(BENCHMARKS) - names_in(TESTS))
    permitted = ("tests/benchmarks/", "tests/architecture/test_structure.py imports structure")
    assert not [each for each in found if not each.startswith(permitted)]
