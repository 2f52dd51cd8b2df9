"""Whatever lies in a folder of adapters, the worker goes on with those that are sound."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.lora.adapters import write_adapter
from safetensors.torch import load_file, save_file

from lengthwise_engine.models.adapters.room import AdapterRoom, AdapterSettings
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_worker.adapters import folder as folders
from lengthwise_worker.adapters.folder import AdapterFolder


@pytest.fixture
def room(make_checkpoint: Callable[[str], Path]) -> AdapterRoom:
    shard = ModelShard(whole=read_spec(make_checkpoint("qwen3")))
    settings = AdapterSettings(places=1, other_rank=4)
    return AdapterRoom(settings, shard, torch.device("cpu"), torch.float32)


@pytest.fixture
def sound(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sound", make_checkpoint("qwen3"), seed=1)


def _linked(place: Path, adapter: Path, name: str) -> None:
    """One of many that are alike, without a copy of each."""
    (place / name).mkdir(parents=True)
    for file in adapter.iterdir():
        (place / name / file.name).hardlink_to(file)


def _names(folder: AdapterFolder) -> list[str]:
    return [key.partition("@")[0] for key in folder.scan()]


def test_of_hundreds_the_first_are_served_and_only_they_are_opened(
    room: AdapterRoom,
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(folders, "MAX_ADAPTERS", 12)
    for number in range(400):
        _linked(tmp_path / "many", sound, f"a{number:05d}")
    folder = AdapterFolder(tmp_path / "many", room, frozenset({"fixed", "other"}))
    for _ in range(2):
        assert _names(folder) == [f"a{number:05d}" for number in range(10)]
    opened = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert sum(str(tmp_path) in each for each in opened) == 10
    (told,) = caplog.messages
    assert "of more than 10 adapters the first are served, by name" in told


def test_names_that_nobody_can_ask_for_are_told_and_left_out(
    room: AdapterRoom, sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = ["a b", "a@b", "a:b", "\u00e4", "a\nb", "x" * 65, "b\udcff", "a%2fb", "A*"]
    for name in ["good", "taken", ".being-written", "..2026", *odd]:
        _linked(tmp_path / "odd", sound, name)
    (tmp_path / "odd/file").write_text("no folder")
    (tmp_path / "odd/loop").symlink_to(tmp_path / "odd/loop")
    folder = AdapterFolder(tmp_path / "odd", room, frozenset({"taken"}))
    for _ in range(2):
        assert _names(folder) == ["good"]
    assert len(caplog.messages) == len(odd) + 1
    assert all("is not served" in told and "\n" not in told for told in caplog.messages)


def test_what_is_damaged_is_told_once_and_served_once_it_is_mended(
    room: AdapterRoom, sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "damaged"
    for name in ("alpha", "cut", "nan", "pipe", "rank-0", "target", "text", "well"):
        (place / name).mkdir(parents=True)
        for file in sound.iterdir():
            (place / name / file.name).write_bytes(file.read_bytes())
    weights = {each.name: each / "adapter_model.safetensors" for each in place.iterdir()}
    os.truncate(weights["cut"], 2000)
    tensors = load_file(weights["nan"])
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, weights["nan"])
    weights["pipe"].unlink()
    os.mkfifo(weights["pipe"])
    config = json.loads((sound / "adapter_config.json").read_text())
    (place / "rank-0/adapter_config.json").write_text(json.dumps({**config, "r": 0}))
    renamed = {name.replace("q_proj", "w_proj"): each for name, each in tensors.items()}
    save_file(renamed, weights["target"])
    (place / "text/adapter_config.json").write_text("{")
    (place / "alpha/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1e39}))
    folder = AdapterFolder(place, room, frozenset())
    for _ in range(2):
        assert _names(folder) == ["well"]
    expected = {
        "alpha": "are not when they count 2.5e+38 times",
        "cut": "not a whole safetensors file",
        "nan": "has numbers that are not finite",
        "pipe": "not a regular file",
        "rank-0": "r: expected an integer >= 1",
        "target": "w_proj.lora_A.weight is no lora_A or lora_B of a layer's",
        "text": "not valid JSON",
    }
    assert len(caplog.messages) == len(expected)
    for told, (name, reason) in zip(caplog.messages, sorted(expected.items()), strict=True):
        assert f"adapter {name!r} is not served" in told
        assert reason in told
    (place / "text/adapter_config.json").write_text(json.dumps(config))
    assert _names(folder) == ["text", "well"]


def test_one_that_goes_away_while_it_is_read_ends_nothing(
    room: AdapterRoom, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        _linked(tmp_path / "some", sound, name)
    folder, read = AdapterFolder(tmp_path / "some", room, frozenset()), room.read

    def vanishing(name: str, path: Path) -> object:
        if name == "a":
            raise FileNotFoundError(errno.ENOENT, "gone", str(path))
        return read(name, path)

    monkeypatch.setattr(room, "read", vanishing)
    assert _names(folder) == ["b"]
