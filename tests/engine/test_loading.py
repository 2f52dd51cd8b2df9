"""What a load takes of memory, tells on the way, and does about files that change."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.models.linear import Linear
from lengthwise_engine.models.weights import DenseLayerWeights
from lengthwise_kernels.dispatch import packs_copy

CopyOf = Callable[..., Path]
WEIGHTS = "model.safetensors"
CPU = torch.device("cpu")
MIB = 1 << 20

LARGE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 5,
}
"""43 million parameters, an eighth of them in projections that are joined."""

LOAD = """
import sys, torch
from pathlib import Path
from lengthwise_engine.loaded_model import load_runner

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(key))

large, small = map(Path, sys.argv[1:])
for dtype in (torch.bfloat16, torch.float32):
    load_runner(small, device="cpu", num_blocks=2, dtype=dtype)  # imports all
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resident, anonymous = memory("VmRSS"), memory("RssAnon")
    loaded = load_runner(large, device="cpu", num_blocks=2, dtype=dtype)
    print(memory("VmHWM") - resident, memory("RssAnon") - anonymous)
    del loaded
"""


def test_in_float32_what_is_copied_is_packed_and_what_is_mapped_is_not(
    make_checkpoint: Callable[..., Path],
) -> None:
    """Query, key and value do not lie one behind the other; a tied head is the embedding."""
    if not packs_copy(torch.empty(64, 64)):
        pytest.skip("is not packed here")
    weights = load_model(make_checkpoint("llama-gqa-tied"), CPU, torch.float32).weights
    layer = weights.layers[0]
    assert isinstance(layer, DenseLayerWeights)
    found = {}
    for name, projection in (("qkv", layer.qkv), ("gate_up", layer.gate_up), ("down", layer.down)):
        assert isinstance(projection, Linear)
        found[name] = projection.weight.is_mkldnn
    assert found == {"qkv": True, "gate_up": False, "down": False}
    assert weights.head.weight.data_ptr() == weights.embedding.data_ptr()


@pytest.mark.slow
def test_a_load_takes_what_is_computed_with_and_little_more(
    make_checkpoint: Callable[..., Path],
) -> None:
    large, small = make_checkpoint("llama-gqa-tied", **LARGE), make_checkpoint("llama-gqa-tied")
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(large), str(small)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    converted, as_stored = (list(map(int, line.split())) for line in result.stdout.splitlines())
    stored = (large / WEIGHTS).stat().st_size // MIB
    assert stored > 150
    peak, _ = converted
    assert peak < stored / 2 + 48, "the weights in half the bytes, and a piece of the file"
    peak, anonymous = as_stored
    assert peak < stored + 48
    assert anonymous < stored / 8 + 24, "mapped, but for what is joined"


@pytest.mark.slow
def test_what_is_mapped_is_what_is_stored_wherever_it_lies(copy_of: CopyOf) -> None:
    """A header of odd length leaves no tensor at an address that its type wants."""
    folder = copy_of("llama")
    stored = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    prefix = "model.layers.1.mlp."
    expected = torch.cat([stored[f"{prefix}{name}_proj.weight"] for name in ("gate", "up")])
    data = (folder / WEIGHTS).read_bytes()
    size = int.from_bytes(data[:8], "little")
    for padding in (0, 1, 2):
        header = json.dumps(json.loads(data[8 : 8 + size])).encode()
        header += b" " * (padding - (8 + len(header)) % 4 + 4)
        (folder / WEIGHTS).write_bytes(
            len(header).to_bytes(8, "little") + header + data[8 + size :]
        )
        weights = load_model(folder, CPU).weights
        layer = weights.layers[1]
        assert isinstance(layer, DenseLayerWeights)
        gate_up = layer.gate_up
        assert isinstance(gate_up, Linear)
        assert torch.equal(gate_up.weight.to_dense(), expected)
        assert torch.equal(weights.norm, stored["model.norm.weight"])


def test_a_write_in_place_is_noticed_and_a_new_file_changes_nothing(copy_of: CopyOf) -> None:
    path = copy_of("llama") / WEIGHTS
    loaded = load_runner(path.parent, device="cpu", num_blocks=2)
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)
    assert loaded.failure is None, "what is mapped is the old file"
    loaded = load_runner(path.parent, device="cpu", num_blocks=2)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(bytes(4))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # the file system's clock may be slow
    assert "written to while they were served" in str(loaded.failure)


def test_a_write_changes_nothing_of_what_was_converted(copy_of: CopyOf) -> None:
    path = copy_of("llama") / WEIGHTS
    loaded = load_runner(path.parent, device="cpu", num_blocks=2, dtype=torch.bfloat16)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert loaded.failure is None


SHOWN = (
    "import logging, sys; logging.basicConfig(level='INFO', format='LOG %(message)s');"
    "from lengthwise_checkpoint import progress;"
    "shown = progress.ByteProgress('loading m', 'loaded m', 3 << 20);"
    "[shown.add(1 << 20) for _ in range(3)]; shown.finish()"
)


def test_a_log_has_the_first_and_the_last_line_of_a_short_load() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SHOWN], capture_output=True, text=True, timeout=30, check=True
    )
    first, last = result.stderr.splitlines()
    assert first.startswith("LOG loading m: 1 of 3 MiB, 0.")
    assert last.startswith("LOG loaded m: 3 MiB in 0.")


def test_a_terminal_has_a_line_that_is_written_over() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SHOWN], stderr=theirs):
        os.close(theirs)
        output = b""
        while b"loaded" not in output or not output.endswith(b"\n"):
            output += os.read(ours, 4096)
    os.close(ours)
    drawn, blank, last = output.decode().strip().split("\r")
    assert drawn.startswith("loading m: 1 of 3 MiB, 0.")
    assert blank == " " * len(drawn)
    assert last.startswith("LOG loaded m: 3 MiB in 0.")
