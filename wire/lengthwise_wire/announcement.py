"""A ready process writes where it listens into a file of a shared folder, and removes the file when
it drains.

The folder is the discovery of the local cluster and of machines without Kubernetes. A killed
process leaves its file behind: readers trust connections, not files.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Where a process listens. `metrics` and `http` are empty where it serves none."""

    address: str
    role: str
    worker_id: str
    pid: int
    metrics: str
    http: str = ""

    def write(self, folder: Path) -> Path:
        """Appears whole or not at all: written aside, then renamed."""
        path = folder / f"{self.worker_id}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(partial, path)
        return path

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None where the file is gone: its process has drained."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
