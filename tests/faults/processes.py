"""Processes of their own that stand alone, and routers in this process over stub workers."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from router.deployment import Deployment

from lengthwise_local import Process, Role
from lengthwise_local.process import TIED

NOBODY = "127.0.0.1:9"
"""A worker's address at which none is."""

COMMANDS = {
    "decode": (*TIED, "lengthwise_decode_worker"),
    # Started anew, for tests look at its memory: a fork has that of all that was imported.
    "router": (sys.executable, "-m", "lengthwise_router"),
}


class Serve(Protocol):
    """Starts a router in this process over stub workers; the test's end stops them."""

    async def __call__(
        self, checkpoint: Path, num_prefill: int = 1, num_decode: int = 1, **config: Any
    ) -> Deployment: ...


@contextmanager
def alone(role: Role, checkpoint: Path, folder: Path, **config: object) -> Iterator[Process]:
    """A router that finds no worker, or a decode worker that no router finds; it is ready. Errors:
    LocalClusterError with its log's end when it does not become so."""
    (folder / "announced").mkdir(parents=True, exist_ok=True)
    own = (
        {"discovery": {"endpoints": [NOBODY]}}
        if role == "router"
        else {"device": "cpu", "threads": 1, "num_blocks": 64}
    )
    process = Process(
        name=role,
        role=role,
        command=COMMANDS[role],
        config={
            "model": str(checkpoint),
            "listen": "127.0.0.1:0",
            "metrics_listen": "127.0.0.1:0",
            "announce_folder": str(folder / "announced"),
            **own,
            **config,
        },
        folder=folder,
        env=os.environ,
    )
    process.start()
    try:
        process.wait_ready(40)
        yield process
    finally:
        process.kill()
        process.wait(10)


def peak_mib(process: Process) -> float:
    """The most memory that it has had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no VmHWM of {process}")
