"""Folders and hub ids."""

from pathlib import Path

import pytest

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.hub import MODEL_FILES, find_checkpoint, is_hub_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("name", False),
        ("a/b/c", False),
        ("./name", False),
        ("~/name", False),
        ("/name", False),
        ("name/", False),
    ],
)
def test_a_hub_id_is_an_owner_and_a_name(name: str, expected: bool) -> None:
    assert is_hub_id(name) == expected


def test_a_folder_is_its_own_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint(str(tmp_path), MODEL_FILES) == tmp_path


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nothing", "one-part", "~nobody/x"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"got '{name}', expected a checkpoint folder or a"):
        find_checkpoint(name, MODEL_FILES)


def test_what_the_hub_does_not_give_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("owner/nothing", "not a/repository"):
        told = f"model: cannot fetch '{name}' from the hub: .+$"
        with pytest.raises(CheckpointError, match=told) as caught:
            find_checkpoint(name, MODEL_FILES)
        assert "\n" not in str(caught.value)
