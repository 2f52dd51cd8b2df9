"""Files of keys, as an operator writes them."""

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def entry(name: str, key: str = "", **fields: Any) -> dict[str, Any]:
    """Of one key, which is «lw-NAME» unless given."""
    return {"name": name, "sha256": sha256(key or f"lw-{name}"), **fields}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    """As Kubernetes does: by a new file in the old one's place."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(entries))
    return new.rename(path)
