"""A cluster of stand-ins: the supervision is real, the processes do nothing."""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lengthwise_local import LocalCluster, Role

STAND_IN = Path(__file__).parent / "stand_in.py"

MakeCluster = Callable[..., LocalCluster]


@pytest.fixture(autouse=True)
def _run_folders_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that failed keeps its folder, as it should; pytest removes it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def make_cluster(model: Path) -> MakeCluster:
    """LocalCluster of stand-ins; takes LocalCluster's arguments."""
    roles: tuple[Role, ...] = ("prefill", "decode", "router")
    commands = {role: (sys.executable, "-S", str(STAND_IN)) for role in roles}
    return partial(LocalCluster, model=model, commands=commands, start_seconds=20.0)
