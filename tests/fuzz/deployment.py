"""What is fuzzed: a worker of each role and a router, of the toy model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster


@contextmanager
def fuzzed(folder: Path) -> Iterator[tuple[LocalCluster, ToySpec]]:
    model = write_toy_checkpoint(folder / "toy", step_seconds=0.0, prefill_seconds_per_token=0.0)
    worker = {"num_blocks": 2048, "threads": 1}
    router = {"no_worker_seconds": 0.5, "explained_requests": 64}
    configs = {"prefill": worker, "decode": worker, "router": router}
    with LocalCluster(model=model, device="cpu", configs=configs) as cluster:  # type: ignore[arg-type]
        yield cluster, read_toy_spec(ConfigJson.read(model / "config.json"))
