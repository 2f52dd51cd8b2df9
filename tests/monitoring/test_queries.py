"""Every query of every panel, rule and alert gives an answer after real traffic."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.kubernetes_api import Server, api_server
from harness.kubernetes_objects import deployment, pod
from harness.prometheus import NAMESPACE, SCRAPE_SECONDS, PrometheusServer
from harness.waiting import eventually
from monitoring.exporters import RELEASE
from monitoring.queries import RULES, all_queries, ask, check_queries, selectors

import lengthwise
from lengthwise_autoscaler.app import AutoscalerApplication
from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster, Process
from lengthwise_runtime.config import load_config

SHORT, LONG = 100, 1000

POOLS = ("prefill", "decode")


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_checkpoint(tmp_path_factory.mktemp("toy"), step_seconds=0.002)


@pytest.fixture
def cluster(toy_folder: Path) -> Iterator[LocalCluster]:
    """Without local prefill, so that KV is moved."""
    with LocalCluster(model=toy_folder, configs={"router": {"local_prefill": False}}) as cluster:
        yield cluster


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[PrometheusServer]:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    server = PrometheusServer(folder, sorted(RULES.glob("*.yaml")))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with api_server() as server:
        yield server


@pytest.fixture
async def autoscaler(
    cluster: LocalCluster, prometheus: PrometheusServer, server: Server, tmp_path: Path
) -> AsyncIterator[AutoscalerApplication]:
    """Of the cluster's workers as pods; it finds a decode worker too few."""
    for pool, process in zip(POOLS, cluster.workers, strict=True):
        server.objects.put("deployments", deployment(f"demo-{pool}", 1))
        server.objects.put("pods", pod(process.name, pool=pool, address=process.address))
    router = cluster.routers[0].name
    server.objects.put("pods", pod(router, component="router"))
    config = tmp_path / "autoscaler.yaml"
    config.write_text(yaml.safe_dump(_autoscaler_config(server, prometheus, tmp_path)))
    application = AutoscalerApplication(load_config(config, AutoscalerConfig))
    await application.start()
    yield application
    await application.drain()


def _autoscaler_config(
    server: Server, prometheus: PrometheusServer, folder: Path
) -> dict[str, Any]:
    kubeconfig = folder / "kubeconfig"
    context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": server.configuration.host}}],
                "contexts": [{"name": "x", "context": context}],
                "users": [{"name": "u", "user": {}}],
                "current-context": "x",
            }
        )
    )
    return {
        "prometheus": {
            "url": prometheus.url,
            "scrape_interval_seconds": SCRAPE_SECONDS,
            "window_seconds": 10.0,
        },
        "release": RELEASE,
        "lease": "demo-autoscaler",
        "kubeconfig": str(kubeconfig),
        "interval_seconds": 0.5,
        "metrics_listen": "127.0.0.1:0",
        "pools": [
            {
                "name": pool,
                "deployment": f"demo-{pool}",
                "role": pool,
                "min_replicas": 2 if pool == "decode" else 1,
                "max_replicas": 4,
            }
            for pool in POOLS
        ],
    }


def target(process: Process) -> tuple[str, dict[str, str]]:
    """As the chart's PodMonitor labels it."""
    labels = _labels(process.name, "router" if process.role == "router" else "worker")
    return process.metrics_address, labels | (
        {"pool": process.role} if process.role != "router" else {}
    )


def _labels(name: str, component: str) -> dict[str, str]:
    return {
        "job": "lengthwise",
        "namespace": NAMESPACE,
        "release": RELEASE,
        "component": component,
        "pod": name,
    }


async def traffic(client: lengthwise.AsyncClient) -> None:
    """Short and long prompts, again, and what clients do wrong."""
    for seed in range(3):
        for length in (SHORT, LONG):
            await client.generate([seed] * length, max_tokens=8, ignore_eos=True)
    with pytest.raises(lengthwise.PromptTooLong):
        await client.generate([1] * 5000)
    with pytest.raises(lengthwise.ModelNotFound):
        await client.generate([1], model="another")
    with pytest.raises(lengthwise.DeadlineExceeded):
        await client.generate([1] * LONG, max_tokens=2000, ignore_eos=True, timeout=0.05)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_every_query_has_an_answer_after_real_traffic(
    cluster: LocalCluster, prometheus: PrometheusServer, autoscaler: AutoscalerApplication
) -> None:
    scaling = autoscaler.metrics_address, _labels("autoscaler-0", "autoscaler")
    prometheus.scrape([*map(target, cluster.processes), scaling])
    await scraped(prometheus, 'count(up{job="lengthwise"} == 1) == 4')
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        await traffic(client)
        await scraped(prometheus, 'sum(lengthwise_requests_total{code="OK"}) == 6')
        await traffic(client)
    await scraped(prometheus, "lengthwise_scaling_actions_total > 0")
    # Rules lag behind scrapes, and behind the rules that they read.
    deadline = time.monotonic() + 15
    while problems := await asyncio.to_thread(
        check_queries, prometheus.url, namespace=NAMESPACE, release=RELEASE
    ):
        assert time.monotonic() < deadline, "\n".join(problems)
        await asyncio.sleep(SCRAPE_SECONDS)


async def scraped(prometheus: PrometheusServer, expression: str) -> None:
    async def is_so() -> bool:
        return bool(await asyncio.to_thread(ask, prometheus.url, expression))

    await eventually(is_so, 20.0)


def test_a_query_that_finds_nothing_and_one_that_is_wrong_are_reported(
    prometheus: PrometheusServer,
) -> None:
    problems = check_queries(prometheus.url, namespace="nowhere", release="none")
    asked = [
        each for each in all_queries(namespace="nowhere", release="none") if not each.may_be_empty
    ]
    # A constant is never missing.
    assert len(problems) == len([each for each in asked if "vector(0)" not in each.expression])
    with pytest.raises(ValueError, match="parse error"):
        ask(prometheus.url, "sum(")


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        pytest.param("up == 0", ["up"], id="a bare name"),
        pytest.param(
            'sum by (pool) (rate(lengthwise_a_total{b="lengthwise_c"}[5m])) / up{d="e"} > 1',
            ['lengthwise_a_total{b="lengthwise_c"}', 'up{d="e"}'],
            id="functions, labels and numbers",
        ),
        pytest.param(
            "release_model:lengthwise_x:sum * on (pool) group_left () max(lengthwise_y)",
            ["release_model:lengthwise_x:sum", "lengthwise_y"],
            id="recorded series and matching",
        ),
        pytest.param("time() - vector(0)", [], id="no series"),
    ],
)
def test_the_series_of_an_expression_are_found(expression: str, found: list[str]) -> None:
    assert selectors(expression) == found
