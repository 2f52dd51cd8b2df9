"""A command without its extra says so in one line."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]


def run(script: str, *, without: str) -> subprocess.CompletedProcess[str]:
    """A console script as pip would have made it, where `without` is not installed."""
    module, _, function = SCRIPTS[script].partition(":")
    program = f"import sys; sys.modules[{without!r}] = None; import {module}; {module}.{function}()"
    return subprocess.run(
        [sys.executable, "-c", program, "--help"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "without", "extra"),
    [
        ("lengthwise", "typer", "cli"),
        ("lengthwise-router", "tokenizers", "router"),
        ("lengthwise-router", "grpc_health", "router"),
        ("lengthwise-prefill-worker", "torch", "worker"),
        ("lengthwise-decode-worker", "safetensors", "worker"),
        ("lengthwise-flexible-worker", "torch", "worker"),
        ("lengthwise-autoscaler", "httpx", "autoscaler"),
    ],
)
def test_a_command_without_its_extra_names_it(script: str, without: str, extra: str) -> None:
    result = run(script, without=without)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{script}: {without} is not installed")
    assert f'pip install "lengthwise[{extra}]"' in result.stderr
    assert result.stderr.count("\n") == 1


HELP = """
import importlib, sys

for each in sys.argv[1:]:
    script, module, function = each.split(":")
    sys.argv = [script, "--help"]
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit as exit:
        assert not exit.code, script
"""


@pytest.mark.slow
def test_every_command_has_a_help() -> None:
    """In one process, which imports torch once."""
    scripts = [f"{script}:{place}" for script, place in SCRIPTS.items()]
    result = subprocess.run(
        [sys.executable, "-c", HELP, *scripts], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    for script in SCRIPTS:
        assert f"usage: {script} " in result.stdout.lower()
