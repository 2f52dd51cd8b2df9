"""Mutual TLS on every gRPC hop: client to router, router to workers, worker to worker."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.clusters import Load, ask, questions
from harness.keys import make_keys

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl"),
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def locked(toy_folder: Path, keys: Path) -> Iterator[LocalCluster]:
    tls = {
        "certificate": str(keys / "server.pem"),
        "private_key": str(keys / "server.key"),
        "authority": str(keys / "ca.pem"),
    }
    config = {"tls": tls}
    with LocalCluster(
        model=toy_folder, configs={"prefill": config, "decode": config, "router": config}
    ) as cluster:
        yield cluster


async def test_a_client_with_a_certificate_is_served(
    locked: LocalCluster, keys: Path, toy_spec: ToySpec
) -> None:
    tls = lengthwise.Tls(
        authority=keys / "ca.pem",
        certificate=keys / "client.pem",
        private_key=keys / "client.key",
    )
    load = Load()
    async with lengthwise.AsyncClient(locked.endpoint, tls=tls) as client:
        for question in questions(5, seed=1):
            await ask(client, question, toy_spec, load)
    assert load.finished == 5


async def test_a_client_without_one_is_not(locked: LocalCluster, keys: Path) -> None:
    tls = lengthwise.Tls(authority=keys / "ca.pem")
    retry = lengthwise.Retry(attempts=1)
    async with lengthwise.AsyncClient(locked.endpoint, tls=tls, retry=retry) as client:
        with pytest.raises(lengthwise.NoWorkerAvailable):
            await client.generate("hello", max_tokens=1)
