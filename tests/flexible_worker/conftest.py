"""A router, a prefill worker, a decode worker and a flexible one, with the toy model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flexible_worker.flexible import DRAIN_SECONDS, STALL_SECONDS, flexible_worker

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster, Process


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of 5 ms: requests last long enough to be hit."""
    return write_toy_checkpoint(
        tmp_path_factory.mktemp("toy"), step_seconds=0.005, prefill_seconds_per_token=0.0001
    )


@pytest.fixture(scope="session")
def toy_spec(toy_folder: Path) -> ToySpec:
    return read_toy_spec(ConfigJson.read(toy_folder / "config.json"))


@pytest.fixture(scope="module")
def cluster(toy_folder: Path) -> Iterator[LocalCluster]:
    """Every worker has its turn. A test leaves all of it running, and nothing held."""
    worker: dict[str, object] = {"num_blocks": 1024, "stall_seconds": STALL_SECONDS, "threads": 1}
    router: dict[str, object] = {"strategy": "round_robin", "local_prefill": False}
    with LocalCluster(
        model=toy_folder, configs={"prefill": worker, "decode": worker, "router": router}
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def worker(cluster: LocalCluster, toy_folder: Path) -> Iterator[Process]:
    """The flexible one; a test leaves it running, in either role."""
    worker = flexible_worker(
        cluster,
        toy_folder,
        "decode",
        num_blocks=1024,
        stall_seconds=STALL_SECONDS,
        drain_seconds=DRAIN_SECONDS,
    )
    worker.start()
    worker.wait_ready(60)
    yield worker
    worker.drain()
    assert worker.wait(DRAIN_SECONDS + 10) == 0
