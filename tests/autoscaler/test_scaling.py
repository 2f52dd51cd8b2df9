"""Pools follow their load: from metrics that real code exports, through a real Prometheus."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.exporters import PrefillExporter, RouterExporter
from harness.flexible_stub import FlexibleStub
from harness.kubernetes_api import Server
from harness.kubernetes_objects import FakeObjects, ago, deployment, pod
from harness.prometheus import PrometheusServer
from harness.release import DECODE, PREFILL, Release, Start
from harness.workers import eventually

from lengthwise.v1 import worker_pb2
from lengthwise_autoscaler.app import AutoscalerApplication
from lengthwise_autoscaler.errors import ErrorReason
from lengthwise_autoscaler.queries import queries

pytestmark = pytest.mark.slow

PREFILLS, DECODES = "demo-lengthwise-prefill", "demo-lengthwise-decode"

QUICK = {"scale_in_seconds": 3.0, "scale_to_zero_seconds": 3.0, "manual_hold_seconds": 2.0}
"""ScalingPolicy's windows, for tests that wait for them."""


@asynccontextmanager
async def prompts(
    router: RouterExporter, workers: list[PrefillExporter], *, busy: float
) -> AsyncIterator[None]:
    """Ten prompts of 1000 tokens a second, that keep so many workers busy."""

    async def arrive() -> None:
        while True:
            router.arrive("long", 1000, ttft=0.5)
            for worker in workers:
                worker.compute("long", 1000 // len(workers), seconds=busy / 10 / len(workers))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(arrive())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def has_failed(
    objects: FakeObjects, reason: ErrorReason, words: str, seconds: float = 10.0
) -> None:
    """An Event tells it, and every pool is as it was."""
    told = f"{reason}: "
    await eventually(
        lambda: any(
            text.startswith(told) and words in text for text in objects.events("ScalingFailed")
        ),
        seconds,
    )
    assert objects.replicas(PREFILLS) == objects.replicas(DECODES) == 1
    assert "patch deployments/scale" not in objects.requests


async def decided(autoscaler: AutoscalerApplication, seconds: float = 10.0) -> None:
    """Until a round without any error has ended, from now on."""
    before = autoscaler.last_decision
    await eventually(lambda: autoscaler.last_decision > before, seconds)


async def test_prompts_that_arrive_faster_than_they_are_computed_make_prefill_workers(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=1.2):
        await start()
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 20.0)
        assert objects.replicas(DECODES) == 1
        await eventually(lambda: objects.events("ScaledOut"))
        assert "scaled out from 1 to 2: " in objects.events("ScaledOut")[0]
        assert "long tokens/s" in objects.events("ScaledOut")[0]


async def test_decode_workers_that_will_run_out_of_blocks_get_company_and_lose_it_again(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    release.decode.set(
        running_requests=10, context_tokens=8000, blocks_predicted=1500, queued_requests=2
    )
    await start(scaling=QUICK)
    await eventually(lambda: objects.replicas(DECODES) == 2, 20.0)
    assert objects.replicas(PREFILLS) == 1
    busier = release.add_decode("decode-1")
    busier.set(running_requests=3)
    release.decode.set(running_requests=1, blocks_predicted=10, context_tokens=10)
    await eventually(lambda: objects.replicas(DECODES) == 1, 30.0)
    assert objects.costs() == {"decode-0": "-1"}, "the one with less to lose"
    await eventually(lambda: objects.events("ScaledIn"))


async def test_nobody_scales_while_all_is_quiet(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    autoscaler = await start(scaling=QUICK)
    for _ in range(10):
        await decided(autoscaler)
    assert "patch deployments/scale" not in objects.requests
    assert objects.events() == []
    rights = {
        "get deployments",
        "list pods",
        "get leases",
        "create leases",
        "update leases",
    }
    assert set(objects.requests) <= rights


async def test_a_pool_is_scaled_to_zero_and_back(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    pools = [PREFILL | {"min_replicas": 0}, DECODE]
    await release.scraped()
    await start(pools, scaling=QUICK)
    await eventually(lambda: objects.replicas(PREFILLS) == 0, 20.0)
    assert objects.replicas(DECODES) == 1
    release.drop("prefill-0")
    async with prompts(release.router, [], busy=0):
        await eventually(lambda: objects.replicas(PREFILLS) >= 1, 20.0)
    assert objects.events("ScalingFailed") == []


async def test_pods_that_nowhere_fit_do_not_make_more_of_their_kind(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=1.2):
        await start()
        await eventually(lambda: objects.replicas(PREFILLS) == 2, 20.0)
        stuck = pod("prefill-1", pool="prefill", ready=None)
        stuck["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "lastTransitionTime": ago(60),
            }
        ]
        objects.put("pods", stuck)
        rounds = objects.requests.count("list pods")
        await eventually(lambda: objects.requests.count("list pods") > rounds + 10, 20.0)
        assert objects.replicas(PREFILLS) == 2


async def test_an_idle_worker_of_a_flexible_pool_is_flipped_before_pods_are_made(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    idle = release.add_decode("decode-1")
    objects.edit(DECODES, 2)
    stubs = {name: FlexibleStub() for name in ("decode-0", "decode-1")}
    for name, stub in stubs.items():
        stub.role = worker_pb2.ROLE_DECODE
        await stub.start()
        objects.put("pods", pod(name, pool="decode", address=stub.address))
    release.decode.set(running_requests=2, context_tokens=100)
    await release.scraped()
    pools = [PREFILL, DECODE | {"flexible": True}]
    autoscaler = await start(pools, scaling={"flip_seconds": 1.0})
    for _ in range(8):
        await decided(autoscaler)
    async with prompts(release.router, [release.prefill], busy=1.0):
        await eventually(lambda: stubs[idle.pod].role == worker_pb2.ROLE_PREFILL, 20.0)
    assert stubs["decode-0"].role == worker_pb2.ROLE_DECODE, "it has more to lose"
    assert objects.replicas(PREFILLS) == 1
    await eventually(lambda: objects.events("RoleFlipped"))
    assert "decode-1 becomes a prefill worker" in objects.events("RoleFlipped")[0]
    for stub in stubs.values():
        await stub.stop()


async def test_a_number_that_somebody_else_wrote_stands_for_a_while(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=2.0):
        autoscaler = await start(scaling=QUICK | {"manual_hold_seconds": 5.0})
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 20.0)
        await decided(autoscaler)
        objects.edit(PREFILLS, 1)
        for _ in range(5):
            await decided(autoscaler)
            assert objects.replicas(PREFILLS) == 1
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 15.0)


async def test_a_paused_pool_is_left_alone_until_it_is_not(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    paused = deployment(PREFILLS, 1, **{"lengthwise/autoscale": "paused"})
    objects.put("deployments", paused)
    async with prompts(release.router, [release.prefill], busy=2.0):
        autoscaler = await start()
        await eventually(lambda: objects.events("ScalingPaused"))
        for _ in range(5):
            await decided(autoscaler)
        assert objects.replicas(PREFILLS) == 1
        assert len(objects.events("ScalingPaused")) == 1
        objects.put("deployments", deployment(PREFILLS, 1))
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 10.0)


async def test_a_dry_run_tells_and_does_nothing(
    release: Release, start: Start, objects: FakeObjects, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lengthwise_autoscaler")
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=2.0):
        await start(dry_run=True)
        await eventually(lambda: "pool prefill would have" in caplog.text, 15.0)
    assert set(objects.requests) == {"get deployments", "list pods"}
    assert objects.replicas(PREFILLS) == 1


async def test_what_fixed_pools_do_is_not_done_twice(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    fixed = {"name": "old", "role": "prefill", "fixed": True}
    others = [release.add_prefill(f"old-{number}", pool="old") for number in range(3)]
    await release.scraped(15.0)
    # 1.2 workers are busy, of four that are there.
    async with prompts(release.router, [release.prefill, *others], busy=1.2):
        autoscaler = await start([PREFILL, DECODE, fixed])
        await decided(autoscaler)
        for _ in range(5):
            await decided(autoscaler)
    assert objects.replicas(PREFILLS) == 1


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


async def test_a_metric_that_nobody_has_is_missed(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    release.prefill.registry.unregister(
        release.prefill.registry._names_to_collectors["lengthwise_prefill_tokens_total"]
    )
    await release.scraped()
    await start()
    await has_failed(objects, "data_missing", "query prefill_tokens: no data")


async def test_another_server_at_the_url_is_told(
    release: Release, server: Server, start: Start, objects: FakeObjects
) -> None:
    host = server.configuration.host
    await start(prometheus={"url": f"{host}/nothing", "scrape_interval_seconds": 1.0})
    await has_failed(objects, "query_failed", "is prometheus.url right?")


@pytest.mark.parametrize(
    "verb", ["list pods", "get deployments", "patch deployments/scale", "patch pods"]
)
async def test_missing_rights_are_told_by_verb_and_resource(
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


async def test_an_event_that_may_not_be_written_is_told_in_the_log(
    release: Release, start: Start, objects: FakeObjects, caplog: pytest.LogCaptureFixture
) -> None:
    objects.forbidden = {"create events"}
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=2.0):
        await start()
        await eventually(lambda: "not allowed to create events" in caplog.text, 20.0)
        await eventually(lambda: objects.replicas(PREFILLS) > 1)


async def test_a_pool_that_is_not_there_is_told_and_the_others_go_on(
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


async def test_a_release_without_routers_is_told(
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
