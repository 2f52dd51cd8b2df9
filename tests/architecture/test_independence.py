"""Tests and benchmarks are independent: each runs without the other.

Only tests of benchmarks import them; those of the architecture hold what `structure` reports.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS, BENCHMARKS = ROOT / "tests", ROOT / "benchmarks"


def imports_of(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def names_in(folder: Path) -> set[str]:
    """What can be imported from a source root."""
    return {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}


def offenders(folder: Path, names: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in imports_of(path)
        if name in names
    ]


def test_benchmarks_import_nothing_of_the_tests() -> None:
    assert not offenders(BENCHMARKS, names_in(TESTS) - names_in(BENCHMARKS))


def test_only_tests_of_benchmarks_import_them() -> None:
    found = offenders(TESTS, names_in(BENCHMARKS) - names_in(TESTS))
    permitted = ("tests/benchmarks/", "tests/architecture/test_structure.py imports structure")
    assert not [each for each in found if not each.startswith(permitted)]
