"""The tests that need a GPU, as a part of `make gpu-check`: the kernels', then the others."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from gpu.scale import Scale
from gpu.task import Deadline, LeftOut, Row, Task

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("tests/kernels", "tests/gpu")


def pytest_tasks(scale: Scale) -> list[Task]:
    return [
        Task(name=folder, table="gpu_tests", run=partial(_pytest, folder)) for folder in FOLDERS
    ]


def _pytest(folder: str, deadline: Deadline) -> Iterator[Row]:
    """Yields nothing; raises RuntimeError with the last line where a test fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", folder]
    try:
        result = subprocess.run(
            command, cwd=ROOT, timeout=max(1.0, deadline.left), capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        raise LeftOut("not all of them ended; run `make test-gpu`") from None
    print(result.stdout[-4000:], result.stderr[-2000:], flush=True)
    if result.returncode:
        raise RuntimeError((result.stdout.strip().splitlines() or ["pytest said nothing"])[-1])
    yield from ()
