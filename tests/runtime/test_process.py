"""The command line of a process, in a process."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, os, signal
from dataclasses import dataclass
from lengthwise_runtime.config import STRICT
from lengthwise_runtime.process import run_process

@dataclass(frozen=True, kw_only=True)
class Config:
    __pydantic_config__ = STRICT
    advertise_host: str
    drain_seconds: float = 3.0

class Application:
    def __init__(self, config):
        print(config)
    async def start(self):
        os.kill(os.getpid(), signal.SIGTERM)
    async def failed(self):
        await asyncio.Event().wait()
    async def drain(self):
        print("drained")

run_process("example", Config, Application)
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_set_says_what_only_the_pod_knows(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("drain_seconds: 5\nadvertise_host: localhost\n", encoding="utf-8")
    done = _run("--config", str(path), "--set", "advertise_host=fd00::7", "--set=drain_seconds=7.5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Config(advertise_host='fd00::7', drain_seconds=7.5)",
        "drained",
    ]


def test_a_wrong_value_is_the_operators_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("advertise_host: localhost\n", encoding="utf-8")
    done = _run("--config", str(path), "--set", "drain_seconds=soon")
    assert done.returncode == 2
    assert "drain_seconds: Input should be a valid number" in done.stderr
    assert "'soon'" in done.stderr
