"""The fingerprint sees every byte of the weights, and costs a hash once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models import weights_digest
from lengthwise_engine.models.decoder_loader import Quantization
from lengthwise_engine.models.weight_files import WeightFiles

CopyOf = Callable[..., Path]
WEIGHTS = "model.safetensors"
TENSOR = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of digests; files of any age are kept in it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LENGTHWISE_CACHE", str(folder))
    monkeypatch.setattr(weights_digest, "FRESH_SECONDS", -1.0)
    return folder


def fingerprint(folder: Path, quantization: Quantization = "none", ranks: int = 1) -> str:
    loaded = load_runner(
        folder,
        device="cpu",
        num_blocks=40,
        kv_memory_bytes=0,
        quantization=quantization,
        tensor_parallel_size=ranks,
    )
    loaded.close()
    return loaded.fingerprint


def digest(folder: Path) -> str:
    return WeightFiles(folder, hashed=True).digest()


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def spread(folder: Path, num_files: int) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = [f"model-{number}.safetensors" for number in range(num_files)]
    for number, name in enumerate(names):
        save_file(dict(sorted(tensors.items())[number::num_files]), folder / name)
    weight_map = {tensor: names[at % num_files] for at, tensor in enumerate(sorted(tensors))}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_bit_of_any_byte_is_another_model(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    path = folder / WEIGHTS
    first = digest(folder)
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    size = path.stat().st_size
    for at in (header, header + 1, size // 2, size - 70_001, size - 1):
        flip(path, at)
        assert digest(folder) != first
        flip(path, at)
    assert digest(folder) == first


def test_the_type_and_the_name_of_equal_bytes_count(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    tensors = load_file(folder / WEIGHTS)
    found = set()
    for name, dtype in (("a", torch.float16), ("a", torch.bfloat16), ("b", torch.float16)):
        save_file(tensors | {name: torch.zeros(8, dtype=dtype)}, folder / WEIGHTS)
        found.add(digest(folder))
    assert len(found) == 3


def test_a_copy_and_other_files_of_the_same_tensors_are_the_same_model(
    copy_of: CopyOf, tmp_path: Path
) -> None:
    folder = copy_of("llama")
    first = fingerprint(folder)
    assert len(first) == 16
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert fingerprint(copy) == first
    spread(copy, 3)
    assert fingerprint(copy) == first
    assert fingerprint(copy, "fp8") not in ("", first)


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 1e-4},
        {"rope_theta": 5e4},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_what_config_json_says_of_the_kv_counts(copy_of: CopyOf, changes: object) -> None:
    assert fingerprint(copy_of("llama")) != fingerprint(copy_of("llama", changes))


@pytest.mark.slow
def test_ranks_have_the_fingerprint_of_one(copy_of: CopyOf, cache: Path) -> None:
    folder = copy_of("llama")
    parallel = fingerprint(folder, ranks=2)
    shutil.rmtree(cache)
    assert fingerprint(folder) == parallel


def test_it_is_hashed_once_for_files_that_stay_as_they_are(copy_of: CopyOf, cache: Path) -> None:
    folder = copy_of("llama")
    first = digest(folder)
    (kept,) = (cache / "weights").iterdir()
    kept.write_text("0" * 64)
    assert digest(folder) == "0" * 64, "read, not hashed"
    (folder / WEIGHTS).touch()
    assert digest(folder) == first
    for garbage in ("", "0" * 63, "0" * 65, "é" * 64):
        for kept in (cache / "weights").iterdir():
            kept.write_text(garbage, encoding="utf-8")
        assert digest(folder) == first


def test_it_is_hashed_again_where_nothing_can_be_kept(
    copy_of: CopyOf, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of("llama")
    cache.write_text("not a folder")
    first = digest(folder)
    monkeypatch.setenv("LENGTHWISE_CACHE", "relative")
    assert digest(folder) == first
    assert not Path("relative").exists()


def test_files_that_have_just_been_written_are_not_kept(
    copy_of: CopyOf, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next write may show the same times."""
    monkeypatch.setattr(weights_digest, "FRESH_SECONDS", 3600.0)
    digest(copy_of("llama"))
    assert not cache.exists()


@pytest.mark.parametrize("change", [os.utime, lambda path: flip(path, path.stat().st_size - 1)])
def test_weights_that_change_while_they_are_loaded_are_refused(
    copy_of: CopyOf, change: Callable[[Path], object]
) -> None:
    folder = copy_of("llama")
    files = WeightFiles(folder, hashed=True)
    change(folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="changed while they were loaded"):
        files.digest()
