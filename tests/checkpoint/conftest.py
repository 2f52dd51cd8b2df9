"""Checkpoint folders without weights, whose files a test may change."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness.checkpoints import config_values

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

ConfigOf = Callable[..., Path]


@pytest.fixture
def config_of(tmp_path: Path) -> ConfigOf:
    """`config_of(variant, changes, drop=keys)`: a folder with the config.json of a variant.

    It has the `changes` and lacks the keys to `drop`, unless they are changes.
    """

    def write(
        variant: str, changes: Mapping[str, Any] | None = None, *, drop: Sequence[str] = ()
    ) -> Path:
        folder = tmp_path / f"{variant}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        kept = {key: value for key, value in config_values(variant).items() if key not in drop}
        (folder / "config.json").write_text(json.dumps({**kept, **(changes or {})}))
        return folder

    return write


@pytest.fixture
def toy_folder(tmp_path: Path) -> Path:
    return write_toy_checkpoint(tmp_path / "toy", context_length=512)
