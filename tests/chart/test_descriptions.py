"""The chart explains itself: the schema, `helm show values` and its README."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart.helm import CHART

GENERATED = {
    "values.schema.json": "values_schema",
    "README.md": "values_schema.readme",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATED)
def test_what_is_committed_is_what_is_generated(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", GENERATED[name]],
        capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"PYTHONPATH": str(CHART.parent)},
    )  # fmt: skip
    committed = (CHART / name).read_text(encoding="utf-8")
    assert done.stdout == committed, "make schema writes it anew"


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return schema


def test_every_property_of_the_schema_is_described() -> None:
    schema = _schema()
    places = {"values": schema, **schema["$defs"]}
    described = {
        f"{name}.{key}": part.get("description", "")
        for name, place in places.items()
        for key, part in place.get("properties", {}).items()
    }
    assert len(described) > 250
    assert [place for place, said in described.items() if len(said) < 4] == []


def test_comments_reach_the_schema_from_wherever_they_stand() -> None:
    defined = _schema()["$defs"]
    told = {
        "a comment behind a key of values.yaml": ("Hub", "revision", "a branch, tag or commit"),
        "lines above a key of values.yaml": ("Autoscaler", "restrictPodPatches", "Has the API"),
        "a docstring of a field": ("WorkerConfig", "kv_memory_bytes", ""),
        "a comment behind a field": ("RouterConfig", "keepalive_seconds", "a silent response"),
        "lines above a field": ("RouterConfig", "gateways", "Names in certificates of callers"),
        "what other pods have too": ("Router", "env", "as containers have it"),
    }
    for place, (definition, key, begin) in told.items():
        said = defined[definition]["properties"][key]["description"]
        assert said.startswith(begin), place


def _paths(values: Any, above: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{above}{key}"
        yield path
        if isinstance(value, dict):
            yield from _paths(value, f"{path}.")


def test_the_readme_has_a_row_or_a_heading_for_every_value() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    # Maps that Kubernetes defines are one value.
    whole = ("podSecurityContext.", "securityContext.", "requests.", "limits.", "grafana_")
    for path in _paths(values):
        if not any(part in path for part in whole):
            begins = (f"| {path} |", f"| {path}.", f"### {path}\n")
            assert any(each in readme for each in begins), path
