"""The shape of the product's code beside its aims: can a newcomer find a thing, and read it?

Run `python -m structure`; it prints a table and appends to benchmarks/data/structure.csv, one row
per package and one for all. Generated code does not count. Needs git for the lines at BASELINE, and
grimp, which import-linter brings.
"""

import ast
import io
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final

import grimp
from rows import append_rows

ROOT: Final = Path(__file__).parents[1]
BASELINE: Final = "14a62ea"
"""The product had no more lines than at this commit, which began this count."""

AIMS: Final = {
    "files_in_largest_folder": 14,
    "file_lines_median": 100,
    "file_lines_p90": 180,
    "file_lines_max": 300,
    "function_lines_median": 9,
    "function_lines_p90": 30,
    "function_lines_max": 60,
    "cycles": 0,
    "duplicated_classes": 0,
}

ADDITIONS: Final = ("sampling parameter", "placement strategy", "model family", "KV link", "RPC")
"""Kinds of addition, each with a list of the files it touches in CONTRIBUTING.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A file of hand-written code."""

    path: Path
    lines: int
    functions: tuple[int, ...]  # lines of each, nested ones too
    classes: tuple[str, ...]


def packages() -> list[Path]:
    """Every source root's package, the SDK's included."""
    return sorted(path.parent for path in ROOT.glob("*/lengthwise*/__init__.py"))


def modules(package: Path) -> list[Module]:
    return [_module(path) for path in sorted(package.rglob("*.py")) if "v1" not in path.parts]


def _module(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    nodes = list(_statements(ast.parse(text)))
    functions = (n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return Module(
        path=path,
        lines=text.count("\n"),
        functions=tuple((n.end_lineno or n.lineno) - n.lineno + 1 for n in functions),
        classes=tuple(n.name for n in nodes if isinstance(n, ast.ClassDef)),
    )


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All of them, nested ones too; not to look into expressions is four times as fast."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child
            yield from _statements(child)


def duplicated_classes(all_modules: Iterable[Module]) -> dict[str, list[Path]]:
    """Names that more than one class has, and where."""
    found: dict[str, list[Path]] = {}
    for module in all_modules:
        for name in module.classes:
            found.setdefault(name, []).append(module.path.relative_to(ROOT))
    return {name: paths for name, paths in sorted(found.items()) if len(paths) > 1}


def cycles(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of modules that import one another, at whatever distance."""
    graph = grimp.build_graph(*names, include_external_packages=False, cache_dir=None)
    reached: dict[str, frozenset[str]] = {
        module: frozenset(graph.find_upstream_modules(module)) for module in graph.modules
    }
    groups = {
        tuple(sorted({module, *(each for each in above if module in reached[each])}))
        for module, above in reached.items()
    }
    return sorted(group for group in groups if len(group) > 1)


def files_per_folder(all_modules: Iterable[Module]) -> Counter[Path]:
    """__init__.py says that a folder is a package, and does not count."""
    return Counter(m.path.parent for m in all_modules if m.path.name != "__init__.py")


def files_per_addition() -> dict[str, int]:
    """Steps of each list in CONTRIBUTING.md, whose heading names the addition."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = {}
    for kind in ADDITIONS:
        heading = rf"^#+ [^\n]*{re.escape(kind)}[^\n]*\n"
        section = re.search(rf"{heading}(.*?)(?=^#|\Z)", text, re.M | re.S)
        if section:
            found[kind] = len(re.findall(r"^\s*(?:\d+\.|[*-]) ", section[1], re.M))
    return found


def baseline_lines() -> int:
    """Lines of hand-written product code at BASELINE. Errors: CalledProcessError without it."""
    archive = subprocess.run(
        ["git", "archive", BASELINE], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        files = [
            tar.extractfile(member)
            for member in tar.getmembers()
            if re.fullmatch(r"[a-z_]+/lengthwise[a-z_]*/(?!.*\bv1/).*\.py", member.name)
        ]
        return sum(file.read().count(b"\n") for file in files if file is not None)


def row(name: str, mine: Sequence[Module], num_cycles: int) -> dict[str, object]:
    return {
        "package": name,
        "lines": sum(module.lines for module in mine),
        "files": len(mine),
        "files_in_largest_folder": max(files_per_folder(mine).values(), default=0),
        **_spread("file_lines", [m.lines for m in mine if m.path.name != "__init__.py"]),
        **_spread("function_lines", [lines for module in mine for lines in module.functions]),
        "cycles": num_cycles,
        "duplicated_classes": len(duplicated_classes(mine)),
    }


def _spread(what: str, values: Sequence[int]) -> dict[str, object]:
    cuts = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [*values] * 9
    return {
        f"{what}_median": round(cuts[4]),
        f"{what}_p90": round(cuts[8]),
        f"{what}_max": max(values),
    }


def rows() -> Iterator[dict[str, object]]:
    """One per package, and one for the whole product; only it has additions and the baseline."""
    found = {package.name: modules(package) for package in packages()}
    circles = cycles(list(found))
    additions = files_per_addition()
    nothing = {f"files per {kind}": "" for kind in ADDITIONS}
    for name, mine in found.items():
        own = sum(any(m.partition(".")[0] == name for m in circle) for circle in circles)
        yield {**row(name, mine, own), "lines_at_baseline": "", **nothing}
    yield {
        **row("all", [module for mine in found.values() for module in mine], len(circles)),
        "lines_at_baseline": baseline_lines(),
        **nothing,
        **{f"files per {kind}": count for kind, count in additions.items()},
    }


def main() -> None:
    table = list(rows())
    total = table[-1]
    aims = {**AIMS, "lines": total["lines_at_baseline"]}
    columns = {
        "folder": ("files_in_largest_folder",),
        "file lines": ("file_lines_median", "file_lines_p90", "file_lines_max"),
        "function lines": ("function_lines_median", "function_lines_p90", "function_lines_max"),
        "cycles": ("cycles",),
        "twice": ("duplicated_classes",),
        "lines": ("lines",),
    }

    def line(name: object, values: Mapping[str, object]) -> str:
        cells = ("/".join(str(values[key]) for key in keys) for keys in columns.values())
        return f"{name!s:27}" + "".join(f"{cell:>16}" for cell in cells)

    print(" " * 27 + "".join(f"{title:>16}" for title in columns))
    for each in table:
        print(line(each["package"], each))
    print(line("at most", aims))
    for kind in ADDITIONS:
        count = total[f"files per {kind}"]
        print(f"hand-written files per {kind}: {count or 'no list in CONTRIBUTING.md'}")
    append_rows("structure", table)


if __name__ == "__main__":
    main()
