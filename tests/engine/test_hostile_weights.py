"""Weights from strangers: what is wrong with a file is one line that names it, at once and without
much memory."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.errors import CacheSizeError, DeviceMemoryError
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.weight_files import WeightFiles

CopyOf = Callable[..., Path]
Make = Callable[[Path], object]
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MANY = 2**31 - 1


def header(tensors: object, data: bytes = b"") -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def writes(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


FILES: Mapping[str, Make] = {
    "a FIFO": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/ptmx"),
    "a folder": Path.mkdir,
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "nothing": writes(b""),
    "half a length": writes(b"\x01\x00"),
    "a header of exabytes": writes(b"\xff" * 64),
    "a header beyond the end": writes((2**20).to_bytes(8, "little") + b"{}"),
    "no JSON": writes(header(b"{" * 64)),
    "nested JSON": writes(header(b"[" * 100_000)),
    "no UTF-8": writes(header(b'{"\xff": 1}')),
    "a list": writes(header([])),
    "overlapping tensors": writes(header({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6))),
    "tensors beyond the end": writes(header({"a": entry(0, 2**62)}, bytes(4))),
    "tensors from behind": writes(header({"a": entry(4, 0)}, bytes(4))),
    "a hole": writes(header({"a": entry(4, 8)}, bytes(8))),
    "more than its tensors": writes(header({"a": entry(0, 4)}, bytes(400))),
    "a tensor twice": writes(
        header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            bytes(8),
        )
    ),
    "a shape that overflows": writes(header({"a": entry(0, 4, (2**62, 2**62))}, bytes(4))),
    "an unknown type": writes(
        header({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
    ),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("shard", [False, True], ids=["single", "shard"])
@pytest.mark.parametrize("make", FILES.values(), ids=FILES.keys())
def test_a_file_that_holds_no_weights_is_one_line(tmp_path: Path, make: Make, shard: bool) -> None:
    name = "part.safetensors" if shard else WEIGHTS
    if shard:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    make(tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        WeightFiles(tmp_path, hashed=True)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).isprintable()


NAMES = ("..", ".", "", "/dev/zero", "../x", "a/b", "a\0b", "a\nb", "\ud800", "x" * 5000)


@pytest.mark.parametrize("name", NAMES)
def test_an_index_leads_to_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError) as caught:
        WeightFiles(tmp_path, hashed=True)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1100


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**18},
        {"hidden_size": 10**12},
        {"vocab_size": MANY, "hidden_size": 2**20},
        {"intermediate_size": MANY},
        {"num_hidden_layers": MANY},
        {"num_hidden_layers": 4096},
        {"num_attention_heads": MANY},
        {"num_attention_heads": 2**30, "num_key_value_heads": 2**30, "head_dim": 2**30},
        {"head_dim": 2**30},
        {"vocab_size": float("inf")},
        {"vocab_size": 10**400},
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_absurd_numbers_are_refused_before_room_is_made(
    copy_of: CopyOf, changes: dict[str, Any], ranks: int
) -> None:
    folder = copy_of("llama", changes)
    before = psutil.Process().memory_info().vms
    with pytest.raises((CheckpointError, CacheSizeError)) as caught:
        load_runner(
            folder,
            device="cpu",
            num_blocks=None,
            kv_memory_bytes=1 << 20,
            tensor_parallel_size=ranks,
        )
    assert str(caught.value).isprintable()
    assert psutil.Process().memory_info().vms - before < 1 << 30


def test_a_context_of_any_length_costs_no_memory(copy_of: CopyOf) -> None:
    folder = copy_of("llama", {"max_position_embeddings": MANY})
    began_at, before = time.monotonic(), psutil.Process().memory_info().vms
    loaded = load_runner(folder, device="cpu", num_blocks=8, kv_memory_bytes=0)
    assert loaded.spec.context_length == 8 * 16 + 1, "what the cache holds"
    assert psutil.Process().memory_info().vms - before < 1 << 30
    assert time.monotonic() - began_at < 30


def test_weights_larger_than_the_machine_are_refused(copy_of: CopyOf) -> None:
    """A file with a hole takes no room on the disk, and all of memory when it is read."""
    folder = copy_of("llama", {"vocab_size": 2**30})
    tensors = load_file(folder / WEIGHTS)
    hidden = tensors.pop("model.embed_tokens.weight").shape[1]
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / WEIGHTS)
    text = (folder / WEIGHTS).read_bytes()
    size = int.from_bytes(text[:8], "little")
    entries, end = json.loads(text[8 : 8 + size]), len(text) - 8 - size
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        entries[name] = entry(end, end := end + 4 * hidden * 2**30, (2**30, hidden))
    (folder / WEIGHTS).write_bytes(header(entries, text[8 + size :]))
    os.truncate(folder / WEIGHTS, 8 + len(json.dumps(entries)) + end)
    with pytest.raises(DeviceMemoryError, match="do not fit this machine's memory"):
        load_runner(folder, device="cpu", num_blocks=8, kv_memory_bytes=0)
