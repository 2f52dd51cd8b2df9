"""`python -m values_schema.configuration`: prints docs/configuration.md, all keys of all processes.

`make schema` writes it: names, types and defaults from the classes that read configuration files,
meanings from their comments. A key that no comment explains is refused.
"""

import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_decode_worker.config import DecodeSettings
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_prefill_worker.config import PrefillSettings
from lengthwise_router.config import RouterConfig
from lengthwise_worker.config import WorkerConfig
from values_schema.comments import of_class

HEAD = """\
# Configuration

Every key of every process. Each reads one YAML file, `--config FILE`; unknown keys and wrong
values are refused with their path. `--set KEY=VALUE` says something else than the file, with dots
that lead into sections: `--set policy.chunk_tokens=256`. `lengthwise up --set` takes the same keys,
and so does `config` of the chart's router, pools and autoscaler. [Running it](operations.md)
explains those that matter most, and what belongs together.

This file is generated: `make schema`."""

PROCESSES: dict[str, tuple[type, ...]] = {
    "Router: `lengthwise-router`": (RouterConfig,),
    "Workers: `lengthwise-prefill-worker`, `lengthwise-decode-worker`": (WorkerConfig,),
    "Prefill workers alone": (PrefillSettings,),
    "Decode workers alone": (DecodeSettings,),
    "Workers that change their role: `lengthwise-flexible-worker`": (FlexibleWorkerConfig,),
    "Autoscaler: `lengthwise-autoscaler`": (AutoscalerConfig,),
}

SHOWN_ABOVE: dict[type, type] = {FlexibleWorkerConfig: WorkerConfig}
"""Whose keys are not told again."""

NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def main() -> None:
    print(HEAD)
    sections: list[type] = []
    for title, classes in PROCESSES.items():
        print(f"\n## {title}\n")
        for cls in classes:
            _print_table(cls, sections)
    print("\n## Sections")
    told = {cls for classes in PROCESSES.values() for cls in classes}
    for cls in sections:  # Grows meanwhile.
        if cls not in told:
            told.add(cls)
            print(f"\n### {cls.__name__}\n\n{_summary(cls)}\n")
            _print_table(cls, sections)


def _print_table(cls: type, sections: list[type]) -> None:
    """`sections`: gets the classes that its keys hold."""
    print("| key | value | default | meaning |\n|---|---|---|---|")
    hints = get_type_hints(cls)
    said = of_class(cls)
    skipped = {field.name for field in fields(SHOWN_ABOVE[cls])} if cls in SHOWN_ABOVE else set()
    shown = [field for field in fields(cls) if field.name not in skipped]
    silent = [field.name for field in shown if not said.get(field.name)]
    assert not silent, f"no comment says what these of {cls.__name__} are: {', '.join(silent)}"
    for field in shown:
        hint = hints[field.name]
        sections.extend(_classes(hint))
        meaning = said[field.name][:1].upper() + said[field.name][1:]
        cells = (f"`{field.name}`", _value(hint), _default(field), meaning)
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


def _classes(hint: Any) -> Iterator[type]:
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from _classes(part)


def _value(hint: Any) -> str:
    """What a key takes, in words."""
    if isinstance(hint, type) and is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list: {_value(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"by name: {_value(get_args(hint)[1])}"
    options = [part for part in get_args(hint) if part is not NoneType]
    return " or ".join(map(_value, options)) if options else NAMES[hint]


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING or field.default is None:
        return ""
    if field.default is MISSING:
        return "required"
    return f"`{json.dumps(field.default)}`"


def _summary(cls: type) -> str:
    paragraph = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


if __name__ == "__main__":
    main()
