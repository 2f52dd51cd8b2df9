"""What has a default is required: null in values takes defaults away, and templates need them."""

import json
from typing import Any

from values_schema.demands import Json
from values_schema.descriptions import resolved


def require_defaults(schema: Json, defaults: Json) -> None:
    """Of `schema` and of definitions that one place alone refers to: others are of values that say
    only what differs, as a pool does of poolDefaults."""
    uses = json.dumps(schema)
    waiting: list[tuple[Json, Any]] = [(schema, defaults)]
    while waiting:
        part, given = waiting.pop()
        needed = {*part.get("required", ())}
        for key, default in given.items():
            described = part["properties"][key]
            if "null" not in described.get("type", ()):
                needed.add(key)
            below = resolved(described, schema["$defs"])
            once = uses.count(json.dumps(described.get("$ref"))) == 1
            if isinstance(default, dict) and below.get("properties") and once:
                waiting.append((below, default))
        part["required"] = sorted(needed)
