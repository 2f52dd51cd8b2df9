"""What comments say of keys: those of classes that read configuration, and those of values.yaml."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import yaml
from typing_extensions import get_original_bases, is_typeddict

Keys = tuple[str, ...]


def of_classes(root: Any) -> dict[str, dict[str, str]]:
    """By names of classes, what is said of their fields: of `root` and all that it is made of."""
    found: dict[str, dict[str, str]] = {}
    waiting = [root]
    while waiting:
        part = waiting.pop()
        waiting.extend(get_args(part))
        if _has_fields(part) and part.__name__ not in found:
            found[part.__name__] = of_class(part)
            hints = get_type_hints(part, include_extras=True)
            waiting.extend(hint for hint in hints.values() if get_origin(hint) is not ClassVar)
    return found


def _has_fields(part: Any) -> bool:
    return isinstance(part, type) and (is_dataclass(part) or is_typeddict(part))


def of_class(part: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in get_original_bases(part) if is_typeddict(part) else reversed(part.__bases__):
        if _has_fields(base):
            found |= of_class(base)
    lines = textwrap.dedent(inspect.getsource(part)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    for field, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = _docstring(following) or _comment(lines, field.lineno - 1, _last(field))
            if said:
                found[field.target.id.rstrip("_")] = said
    return found


def _docstring(following: ast.stmt | None) -> str:
    match following:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split())
    return ""


def _last(field: ast.AnnAssign) -> int:
    assert field.end_lineno is not None
    return field.end_lineno - 1


def of_yaml(path: Path) -> dict[Keys, str]:
    """By paths of keys, what is said of them; not of those in braces, which share a line."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return {keys: said for keys, line in _places(root) if (said := _comment(lines, line, line))}


def _places(node: yaml.Node | None, above: Keys = ()) -> Iterator[tuple[Keys, int]]:
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for key, value in node.value:
            keys = (*above, key.value)
            yield keys, key.start_mark.line
            yield from _places(value, keys)


def _comment(lines: Sequence[str], first: int, last: int) -> str:
    """Behind the last of these lines, or else in those right above the first."""
    _, mark, behind = lines[last].partition("  # ")
    if mark:
        return behind
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    above: list[str] = []
    for line in reversed(lines[:first]):
        if not line.startswith(f"{indent}# "):
            break
        above.insert(0, line.removeprefix(f"{indent}# "))
    # What is indented further is a list of other keys.
    return " ".join(line for line in above if not line.startswith(" "))
