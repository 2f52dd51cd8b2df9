"""Writes into the schema what comments say of its properties."""

from collections.abc import Iterator, Mapping
from typing import Any

from values_schema.comments import Keys
from values_schema.demands import Json

LENDERS = ("PodDefaults", "PoolDefaults", "Model")
"""Definitions whose properties others have too, and mean the same."""


def describe(
    schema: Json, of_classes: Mapping[str, Mapping[str, str]], of_values: Mapping[Keys, str]
) -> None:
    """Each property gets a description, of its class or of values.yaml. Raises `AssertionError`
    with all that have none."""
    definitions = schema["$defs"]
    for name, definition in {"Values": schema, **definitions}.items():
        for key, said in of_classes.get(name, {}).items():
            if key in definition.get("properties", {}):
                definition["properties"][key]["description"] = said
    for keys, said in of_values.items():
        part: Json = {"properties": {}}
        place = schema
        for key in keys:
            part = place.get("properties", {}).get(key, {})
            place = resolved(part, definitions)
        part.setdefault("description", said)
    for lender in LENDERS:
        for key, part in definitions[lender]["properties"].items():
            for definition in definitions.values():
                other = definition.get("properties", {}).get(key)
                if other is not None and "description" in part:
                    other.setdefault("description", part["description"])
    missing = [place for place, part in properties(schema) if not part.get("description")]
    assert not missing, f"no comment says what these are: {', '.join(missing)}"


def properties(schema: Json) -> Iterator[tuple[str, Json]]:
    """All properties, of values and of definitions, with their names."""
    for name, definition in {"Values": schema, **schema["$defs"]}.items():
        for key, part in definition.get("properties", {}).items():
            yield f"{name}.{key}", part


def resolved(part: Json, definitions: Mapping[str, Any]) -> Json:
    found: Json = definitions[part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else part
    return found
