"""`python -m values_schema`: prints values.schema.json. `make schema` writes it."""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from lengthwise_autoscaler.config import AutoscalerConfig, PrometheusConfig
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_policy.placement.strategies import STRATEGIES
from lengthwise_prefill_worker.config import PrefillSettings, PrefillWorkerConfig
from lengthwise_router.config import RouterConfig
from lengthwise_worker.config import WorkerConfig
from values_schema.comments import of_classes, of_yaml
from values_schema.demands import Json
from values_schema.descriptions import describe
from values_schema.required import require_defaults
from values_schema.values import Values

VALUES = Path(__file__).parents[1] / "lengthwise" / "values.yaml"

COMMON = (
    "model", "served_name", "listen", "metrics_listen", "tls", "drain_seconds", "advertise_host",
    "announce_folder", "objectives", "metrics_tls", "tracing",
)  # fmt: skip
WORKER = (*COMMON, "device")

SET_BY_THE_CHART: dict[type, tuple[str, ...]] = {
    RouterConfig: (*COMMON, "http", "models", "discovery", "client_tls", "keys"),
    WorkerConfig: WORKER,
    PrefillWorkerConfig: (*WORKER, "length_class"),
    DecodeWorkerConfig: WORKER,
    FlexibleWorkerConfig: (*WORKER, "role"),
    PrefillSettings: ("length_class",),
    AutoscalerConfig: (
        "release", "lease", "pools", "namespace", "identity", "kubeconfig", "metrics_listen", "tls",
        "dry_run", "objectives", "model_objectives", "metrics_tls",
    ),
    PrometheusConfig: ("url", "authority", "bearer_token"),
}  # fmt: skip
"""Keys of configuration files that values do not set, or set in another way."""

BEGUN_BY_THE_CHART = ("prometheus",)
"""Sections that processes cannot do without; the chart writes them, and values may add to them."""


def main() -> None:
    schema = TypeAdapter(Values).json_schema()
    definitions = schema["$defs"]
    for config, names in SET_BY_THE_CHART.items():
        missing = set(names) - {field.name for field in fields(config)}
        assert not missing, f"{config.__name__} has no {', '.join(sorted(missing))}"
        definition = definitions[config.__name__]
        for name in names:
            del definition["properties"][name]
        given = (*names, *BEGUN_BY_THE_CHART)
        definition["required"] = [n for n in definition.get("required", ()) if n not in given]
    definitions["RouterConfig"]["properties"]["strategy"]["enum"] = sorted(STRATEGIES)
    schema["$defs"] = _reachable(schema)
    plain = _plain(schema)
    describe(plain, of_classes(Values), of_yaml(VALUES))
    require_defaults(plain, yaml.safe_load(VALUES.read_text(encoding="utf-8")))
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the lengthwise chart",
    }
    json.dump(about | plain, sys.stdout, indent=2)
    print()


def _plain(part: Any, *, names: bool = False) -> Any:
    """Without what stands elsewhere: titles, defaults, what is said of classes. `names`: the keys
    of `part` are names of values, and not words of JSON Schema."""
    if isinstance(part, list):
        return [_plain(each) for each in part]
    if not isinstance(part, dict):
        return part
    if names:
        return {key: _plain(value) for key, value in part.items()}
    kept = {
        key: _plain(value, names=key in ("properties", "$defs"))
        for key, value in part.items()
        if key not in ("title", "description", "default", "format") and value != []
    }
    return _nullable(kept)


def _nullable(part: Json) -> Json:
    """`anyOf` of types as one `type`: Helm then reports in one line what is wrong."""
    options = part.get("anyOf")
    if options is None:
        return part
    merged: Json = {}
    for option in options:
        assert "type" in option, f"{option} cannot be put into one line with others"
        merged |= option
    merged["type"] = [option["type"] for option in options]
    if "enum" in merged and "null" in merged["type"]:
        merged["enum"] = [*merged["enum"], None]
    return {**{key: value for key, value in part.items() if key != "anyOf"}, **merged}


def _reachable(schema: Json) -> Json:
    """The definitions that are referred to, in whatever way."""
    definitions = schema.pop("$defs")
    found: Json = {}
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())
            name = str(part.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in found:
                found[name] = definitions[name]
                waiting.append(found[name])
    return dict(sorted(found.items()))


if __name__ == "__main__":
    main()
