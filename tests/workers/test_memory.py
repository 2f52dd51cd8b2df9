"""What workers take of memory is what their plan says, and they share what is stored."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import lengthwise
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.memory_plan import MemorySettings, plan_memory
from lengthwise_local import LocalCluster, Process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NUM_BLOCKS = 64


def read_mib(worker: Process, file: str, *names: str) -> float:
    """The sum of these lines of /proc/PID/`file`."""
    lines = Path(f"/proc/{worker.pid}/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith(names))


def shared_mib(worker: Process, folder: str) -> float:
    """How much of the files in this folder the worker has in memory, and another process too."""
    kib, is_of_folder = 0, False
    for line in Path(f"/proc/{worker.pid}/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # the first line of a mapping
            is_of_folder = folder in line
        elif is_of_folder and name.startswith("Shared_"):
            kib += int(values[0])
    return kib / 1024


def test_workers_keep_to_their_plan_and_share_the_weights(
    make_checkpoint: Callable[..., Path],
) -> None:
    folder = make_checkpoint(
        "llama-gqa-tied", hidden_size=512, intermediate_size=2048, num_hidden_layers=6
    )
    plan = plan_memory(
        ModelShard(whole=read_spec(folder)),
        device_type="cpu",
        dtype="float32",
        budget_bytes=0,
        settings=MemorySettings(num_blocks=NUM_BLOCKS),
    )
    weights = plan.weight_bytes / 2**20
    assert weights > 80
    cluster = LocalCluster(model=folder, settings=[f"num_blocks={NUM_BLOCKS}"])
    with cluster, lengthwise.Client(cluster.endpoint) as client:
        client.generate("x" * 300, max_tokens=32)
        for worker in cluster.workers:
            assert read_mib(worker, "status", "VmHWM") < plan.total_bytes / 2**20
            shared = shared_mib(worker, str(folder))
            assert shared > 0.8 * weights
            log = worker.log_path.read_text()
            assert re.search(rf" INFO .* loading {folder.name}: \d+ of {weights:.0f} MiB, ", log)
            assert re.search(rf" INFO .* loaded {folder.name}: {weights:.0f} MiB in ", log)
