"""Folders and hub ids."""

from pathlib import Path

import pytest

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.hub import MODEL_FILES, find_checkpoint, is_hub_id, model_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("owner/name@refs/pr/1", True),
        ("name", False),
        ("name@of/branch", False),
        ("a/b/c", False),
        ("owner/name/model.gguf", True),
        ("owner/name/Q8_0/model-00001-of-00002.gguf@main", True),
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
    with pytest.raises(
        CheckpointError, match=f"got '{name}', expected a checkpoint folder, a .gguf"
    ):
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


def test_a_folder_with_one_gguf_model_is_that_file(tmp_path: Path) -> None:
    """In parts or whole; where there are safetensors too, these are meant."""
    (tmp_path / "README.md").touch()
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.gguf").touch()
    assert find_checkpoint(str(tmp_path), MODEL_FILES) == tmp_path / "model-00001-of-00002.gguf"
    (tmp_path / "model.Q8_0.gguf").touch()
    told = r"2 GGUF models \(model-00001-of-00002\.gguf, model\.Q8_0\.gguf\), expected one; name it"
    with pytest.raises(CheckpointError, match=told):
        find_checkpoint(str(tmp_path), MODEL_FILES)
    assert find_checkpoint(str(tmp_path / "model.Q8_0.gguf"), ()) == tmp_path / "model.Q8_0.gguf"
    (tmp_path / "model.safetensors").touch()
    assert find_checkpoint(str(tmp_path), MODEL_FILES) == tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", "name"),
        ("/models/chat/", "chat"),
        ("/models/chat-Q4_K_M.gguf", "chat-Q4_K_M"),
        ("owner/name/chat-00001-of-00003.gguf", "chat"),
    ],
)
def test_a_model_is_called_by_its_last_part(name: str, expected: str) -> None:
    assert model_name(name) == expected
