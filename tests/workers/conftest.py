"""One prefill and one decode worker as real processes with the toy model."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from harness.workers import PlainRouter

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of 5 ms and 0.2 ms per prompt token: slow enough to be caught in every phase."""
    return write_toy_checkpoint(
        tmp_path_factory.mktemp("toy"), step_seconds=0.005, prefill_seconds_per_token=0.0002
    )


@pytest.fixture(scope="session")
def toy_spec(toy_folder: Path) -> ToySpec:
    return read_toy_spec(ConfigJson.read(toy_folder / "config.json"))


@pytest.fixture(scope="module")
def cluster(toy_folder: Path) -> Iterator[LocalCluster]:
    """256 blocks of 16 tokens each; a stall of 2 s. A test leaves it working, and nothing held."""
    worker = {"num_blocks": 256, "stall_seconds": 2.0, "drain_seconds": 5.0}
    with LocalCluster(model=toy_folder, configs={"prefill": worker, "decode": worker}) as cluster:
        yield cluster


@pytest.fixture
async def router(cluster: LocalCluster) -> AsyncIterator[PlainRouter]:
    router = PlainRouter(cluster.prefill[0].address, cluster.decode[0].address)
    await router.open()
    yield router
    await router.close()
