"""A ready process writes where it listens into a shared folder, and takes the note away when it
drains.

The folder is the discovery of the local cluster and of machines without Kubernetes. A killed
process leaves its note behind: readers believe connections, not notes.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Where a process listens. `metrics` is empty where it serves none."""

    address: str
    role: str
    worker_id: str
    pid: int
    metrics: str

    def write(self, folder: Path) -> Path:
        """Appears whole or not at all: written aside, then renamed."""
        path = folder / f"{self.worker_id}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(partial, path)
        return path
