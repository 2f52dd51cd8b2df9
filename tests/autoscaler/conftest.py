"""A release that is not there but looks as if: pods' metrics at a real Prometheus, and their
objects at an API server's stand-in."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoscaler.release import DECODE, PREFILL, Pools, Release, Releases, Start
from harness.kubernetes_api import Server, api_server
from harness.kubernetes_objects import FakeObjects
from harness.prometheus import NAMESPACE, SCRAPE_SECONDS, PrometheusServer
from monitoring.exporters import RELEASE

from lengthwise_autoscaler.app import AutoscalerApplication
from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_runtime.config import load_config


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    releases = Releases(tmp_path_factory.mktemp)
    yield releases
    releases.close()


@pytest.fixture
def release(releases: Releases, objects: FakeObjects) -> Iterator[Release]:
    release = releases.take()
    yield release.placed(objects)
    release.close()


@pytest.fixture
def prometheus(release: Release) -> PrometheusServer:
    return release.prometheus


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with api_server() as server:
        yield server


@pytest.fixture
def objects(server: Server) -> FakeObjects:
    return server.objects


@pytest.fixture
def write_config(
    tmp_path: Path, server: Server, prometheus: PrometheusServer
) -> Callable[..., Path]:
    """`write_config(pools, **keys)`: a configuration file for that release."""

    def write(pools: Pools | None = None, **keys: Any) -> Path:
        kubeconfig = tmp_path / "kubeconfig"
        cluster = {"server": server.configuration.host}
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "contexts": [{"name": "x", "context": context}],
                    "users": [{"name": "u", "user": {}}],
                    "current-context": "x",
                }
            )
        )
        config = {
            "prometheus": {
                "url": prometheus.url,
                "timeout_seconds": 4.0,
                "scrape_interval_seconds": SCRAPE_SECONDS,
                "window_seconds": 10 * SCRAPE_SECONDS,
            },
            "release": RELEASE,
            "lease": "demo-lengthwise-autoscaler",
            "kubeconfig": str(kubeconfig),
            "interval_seconds": 0.3,
            "metrics_listen": "127.0.0.1:0",
            "pools": pools or [PREFILL, DECODE],
            **keys,
        }
        path = tmp_path / "autoscaler.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


@pytest.fixture
async def start(write_config: Callable[..., Path]) -> AsyncIterator[Start]:
    """`await start(pools, **keys)`: an autoscaler in this process."""
    started: list[AutoscalerApplication] = []

    async def begin(pools: Pools | None = None, **keys: Any) -> AutoscalerApplication:
        config = load_config(write_config(pools, **keys), AutoscalerConfig)
        application = AutoscalerApplication(config)
        await application.start()
        started.append(application)
        return application

    yield begin
    for application in started:
        await application.drain()
