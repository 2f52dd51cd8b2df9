"""Folders and hub ids."""

from pathlib import Path

import pytest

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.hub import MODEL_FILES, find_checkpoint, is_hub_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("owner/name@refs/pr/1", True),
        ("name", False),
        ("name@of/branch", False),
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


def test_a_revision_is_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As the hub's own client keeps it.
    repository = tmp_path / "models--owner--name"
    for revision, commit in (("main", "0" * 40), ("v2", "2" * 40)):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, commit in (("owner/name", "0" * 40), ("owner/name@v2", "2" * 40)):
        assert find_checkpoint(name, MODEL_FILES) == repository / "snapshots" / commit
    with pytest.raises(CheckpointError, match="cannot fetch 'owner/name@v3' from the hub"):
        find_checkpoint("owner/name@v3", MODEL_FILES)


def test_what_the_hub_does_not_give_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("owner/nothing", "not a/repository"):
        told = f"model: cannot fetch '{name}' from the hub: .+$"
        with pytest.raises(CheckpointError, match=told) as caught:
            find_checkpoint(name, MODEL_FILES)
        assert "\n" not in str(caught.value)
