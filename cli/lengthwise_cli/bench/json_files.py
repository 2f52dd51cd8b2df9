"""Results as JSON files."""

import json
import math
from pathlib import Path


def write_json(value: object, path: Path) -> None:
    """Errors: OSError."""
    path.write_text(json.dumps(_without_nan(value), indent=2) + "\n", encoding="utf-8")


def _without_nan(value: object) -> object:
    """JSON has no nan."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
