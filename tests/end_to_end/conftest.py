"""Whole clusters with the toy model, whose every answer is known beforehand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster


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
    """Two workers of each role, three routers. A test leaves all of them running, and nothing
    held. Of each file its own: kept to the session's end it would take a 17th of a core all along.
    """
    worker = {"num_blocks": 2048}
    with LocalCluster(
        model=toy_folder,
        prefill=2,
        decode=2,
        routers=3,
        configs={"prefill": worker, "decode": worker},
    ) as cluster:
        yield cluster
