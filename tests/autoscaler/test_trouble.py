"""What goes wrong around an autoscaler is reported, and scaling stays where it is."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from autoscaler.release import (
    DECODE,
    PREFILL,
    PREFILLS,
    QUICK,
    Release,
    Start,
    decided,
    has_failed,
    prompts,
)
from harness.kubernetes_api import Server
from harness.kubernetes_objects import FakeObjects
from harness.prometheus import PrometheusServer
from harness.waiting import eventually

from lengthwise_autoscaler.load.queries import queries

pytestmark = pytest.mark.slow

Fault = Callable[[PrometheusServer], None]


@pytest.mark.parametrize(
    ("fault", "mend"),
    [
        pytest.param(PrometheusServer.stop, PrometheusServer.start, id="stopped"),
        pytest.param(PrometheusServer.freeze, PrometheusServer.thaw, id="frozen"),
    ],
)
async def test_without_prometheus_everything_stays_until_it_is_back(
    release: Release,
    prometheus: PrometheusServer,
    start: Start,
    objects: FakeObjects,
    fault: Fault,
    mend: Fault,
) -> None:
    await release.scraped()
    autoscaler = await start()
    await decided(autoscaler)
    fault(prometheus)
    await has_failed(objects, "prometheus_unreachable", prometheus.url)
    mend(prometheus)
    await decided(autoscaler, 20.0)
    assert "patch deployments/scale" not in objects.requests
    failures = objects.events("ScalingFailed")
    assert len([text for text in failures if "prometheus_unreachable" in text]) == 2, "per pool"


async def test_a_prometheus_that_does_not_scrape_any_more_is_not_believed(
    release: Release, prometheus: PrometheusServer, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    autoscaler = await start()
    await decided(autoscaler)
    prometheus.scrape([])
    await has_failed(objects, "data_missing", "")


async def test_samples_that_are_older_than_they_should_be_are_not_believed(
    release: Release, prometheus: PrometheusServer, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    too_short = {"url": prometheus.url, "scrape_interval_seconds": 0.1, "window_seconds": 10.0}
    await start(prometheus=too_short)
    await has_failed(objects, "data_stale", "is prometheus.scrape_interval_seconds right?")


@pytest.mark.parametrize(
    ("pod_name", "words"),
    [
        pytest.param("router-0", "cannot scrape router-0", id="router"),
        pytest.param("prefill-0", "cannot scrape prefill-0", id="worker"),
    ],
)
async def test_a_ready_pod_that_cannot_be_scraped_is_missed(
    release: Release, start: Start, objects: FakeObjects, pod_name: str, words: str
) -> None:
    await release.scraped()
    autoscaler = await start()
    await decided(autoscaler)
    release.exporters.pop(pod_name).close()
    await has_failed(objects, "data_missing", words)


async def test_a_metric_that_no_pod_has_is_missed(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    release.prefill.registry.unregister(
        release.prefill.registry._names_to_collectors["lengthwise_prefill_tokens_total"]
    )
    await release.scraped()
    await start()
    await has_failed(objects, "data_missing", "query prefill_tokens: no data")


async def test_another_server_at_the_url_is_reported(
    release: Release, server: Server, start: Start, objects: FakeObjects
) -> None:
    host = server.configuration.host
    await start(prometheus={"url": f"{host}/nothing", "scrape_interval_seconds": 1.0})
    await has_failed(objects, "query_failed", "is prometheus.url right?")


@pytest.mark.parametrize(
    "verb", ["list pods", "get deployments", "patch deployments/scale", "patch pods"]
)
async def test_missing_rights_are_reported_by_verb_and_resource(
    release: Release,
    start: Start,
    objects: FakeObjects,
    caplog: pytest.LogCaptureFixture,
    verb: str,
) -> None:
    objects.forbidden = {verb}
    await release.scraped()
    if verb == "patch pods":
        release.add_prefill("prefill-1")
        objects.edit(PREFILLS, 2)
        await release.scraped()
    busy = 2.0 if verb == "patch deployments/scale" else 0.0
    async with prompts(release.router, [release.prefill], busy=busy):
        await start(scaling=QUICK)
        await eventually(lambda: f"not allowed to {verb}" in caplog.text, 20.0)
    await eventually(lambda: any(verb in text for text in objects.events("ScalingFailed")))
    assert objects.replicas(PREFILLS) == (2 if verb == "patch pods" else 1)


async def test_an_event_that_may_not_be_written_is_logged(
    release: Release, start: Start, objects: FakeObjects, caplog: pytest.LogCaptureFixture
) -> None:
    objects.forbidden = {"create events"}
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=2.0):
        await start()
        await eventually(lambda: "not allowed to create events" in caplog.text, 20.0)
        await eventually(lambda: objects.replicas(PREFILLS) > 1)


async def test_a_pool_that_is_not_there_is_reported_and_the_others_go_on(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    unknown = {"name": "gone", "deployment": "gone", "role": "decode"}
    async with prompts(release.router, [release.prefill], busy=2.0):
        await start([PREFILL, DECODE, unknown])
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 20.0)
    await eventually(
        lambda: any("no Deployment 'gone'" in text for text in objects.events("ScalingFailed"))
    )


async def test_the_api_server_may_be_away_for_a_while(
    release: Release,
    server: Server,
    start: Start,
    objects: FakeObjects,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await release.scraped()
    autoscaler = await start()
    await decided(autoscaler)
    await server.stop()
    await eventually(lambda: "api_server_unreachable" in caplog.text, 10.0)
    await server.start()
    await decided(autoscaler, 20.0)
    assert objects.replicas(PREFILLS) == 1


async def test_of_two_autoscalers_one_acts_and_the_other_takes_over(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    first = await start()
    await decided(first)
    second = await start()
    await asyncio.sleep(1.0)
    assert second.last_decision == 0.0
    await first.drain()
    await decided(second)
    assert objects.get("leases", "demo-lengthwise-autoscaler")["spec"]["leaseTransitions"] >= 1


async def test_a_release_without_routers_is_reported(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    release.drop("router-0")
    await start()
    await has_failed(objects, "data_missing", "has no router pod")


async def test_every_query_has_a_result_where_there_is_traffic(
    release: Release, prometheus: PrometheusServer, write_config: Callable[..., Path]
) -> None:
    await release.scraped()
    texts = queries("llm", "demo", window_seconds=10.0, scrape_interval_seconds=1.0)
    empty: list[Any] = [name for name, text in texts.items() if not prometheus.query(text)]
    assert empty == ["cost"], "absent until fitted"
