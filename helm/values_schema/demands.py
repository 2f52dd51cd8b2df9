"""What values demand of other values, as JSON Schema's `if`.

Neither `anyOf` nor `allOf`, but an `else` with the next `if`. Of what is unmet Helm then
reports that alone, in one line, and not what every branch misses.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ConfigDict

Json = dict[str, Any]


def strict_and(demand: Callable[[Json], None]) -> ConfigDict:
    """No unknown keys, and what `demand` writes into the schema."""
    return ConfigDict(extra="forbid", json_schema_extra=demand)


def where_enabled(**demanded: Json) -> ConfigDict:
    """No unknown keys, and more is demanded of those keys where `enabled` is true."""
    return strict_and(lambda schema: schema.update(_first([({"enabled": True}, demanded)])))


def weights_by_source(schema: Json) -> None:
    """What each source of weights cannot do without."""
    text = {"minLength": 1}
    hub = {"properties": {"id": {"pattern": r"^[^/ ]+/[^/ ]+(/[^ ]+\.gguf)?$"}}}
    download = {"properties": {"url": {"pattern": "^https?://"}}}
    cases: list[tuple[Json, Json]] = [
        ({"source": "claim"}, {"name": text, "claim": {"properties": {"name": text}}}),
        ({"source": "hub"}, {"hub": hub}),
        ({"source": "download"}, {"name": text, "download": download}),
    ]
    schema.update(_first(cases))


def config_by_role(schema: Json) -> None:
    """The configuration of a pool is that of the process that it runs."""
    prefill, decode, flexible = schema["properties"]["config"]["anyOf"]
    schema["properties"]["config"] = {"type": "object"}
    cases: list[tuple[Json, Json]] = [
        ({"flexible": True}, {"config": flexible}),
        ({"role": "prefill"}, {"config": prefill}),
        ({"role": "decode"}, {"config": decode}),
    ]
    schema.update(_first(cases))


def _first(cases: Sequence[tuple[Json, Json]]) -> Json:
    """Of the first case whose keys have its values the demands hold."""
    (values, demanded), *others = cases
    constants = {key: {"const": value} for key, value in values.items()}
    chosen: Json = {
        "if": {"properties": constants, "required": [*values]},
        "then": {"properties": demanded},
    }
    return chosen | {"else": _first(others)} if others else chosen
