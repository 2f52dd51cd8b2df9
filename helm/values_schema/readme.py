"""`python -m values_schema.readme`: prints the chart's README, with a row for each value.

`make schema` writes it. What is said of values comes from the schema, which has it from values.yaml
and from the classes that read configuration.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from values_schema.demands import Json
from values_schema.descriptions import resolved

CHART = Path(__file__).parents[1] / "lengthwise"

HEAD = """\
# {name}

{description}. Version {version}, Kubernetes {kubeVersion}.

```
helm install demo helm/lengthwise --set image.repository=registry.example/lengthwise --wait
helm test demo
```

[docs/kubernetes.md](../../docs/kubernetes.md) explains how to install, size, scale and debug it;
[values/](../values) has examples. `helm install` refuses wrong values in one line, and editors that
know JSON Schema complete them by `values.schema.json`.

This file is generated: `make schema`.

## Values
"""

TABLE = "| Key | Type | Default | Description |\n|-----|------|---------|-------------|"


def main() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    print(HEAD.format(**about))
    grouped = {key for key, value in defaults.items() if isinstance(value, dict) and value}
    alone = {key: defaults[key] for key in defaults if key not in {"pools", *grouped}}
    print("\n".join((TABLE, *_rows(schema, schema, alone))))
    for key in defaults:
        if key in alone:
            continue
        part = schema["properties"][key]
        below = resolved(part, schema["$defs"])
        rows = _rows(below, schema, defaults[key], f"{key}.") if key in grouped else _pools(schema)
        print(f"\n### {key}\n\n{_escaped(part['description'])}\n\n{TABLE}")
        print("\n".join(rows))


def _rows(part: Json, schema: Json, defaults: Json, prefix: str = "") -> Iterator[str]:
    """Of the keys that have a default, and of those below them."""
    for key, default in defaults.items():
        described = part["properties"][key]
        below = resolved(described, schema["$defs"])
        if isinstance(default, dict) and default and below.get("properties"):
            yield from _rows(below, schema, default, f"{prefix}{key}.")
        else:
            yield _row(f"{prefix}{key}", below, described["description"], default)


def _pools(schema: Json) -> Iterator[str]:
    """Of what a pool alone has: it stands in a list, where defaults say nothing of all keys."""
    shared = schema["$defs"]["PoolDefaults"]["properties"]
    for key, part in schema["$defs"]["Pool"]["properties"].items():
        if key not in shared:
            yield _row(f"pools[].{key}", part, part["description"], None)


def _row(key: str, part: Json, description: str, default: Any) -> str:
    shown = "" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
    return f"| {key} | {_type(part)} | {_escaped(shown)} | {_escaped(description)} |"


def _type(part: Json) -> str:
    kinds = part.get("type", "string")
    return " or ".join([kinds] if isinstance(kinds, str) else kinds)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
