"""Pools follow their load: from metrics that real code exports, through a real Prometheus."""

import logging
import re

import pytest
from autoscaler.flexible_stub import FlexibleStub
from autoscaler.release import (
    DECODE,
    DECODES,
    PREFILL,
    PREFILLS,
    QUICK,
    Release,
    Start,
    decided,
    prompts,
)
from harness.kubernetes_objects import FakeObjects, ago, deployment, pod
from harness.waiting import eventually

from lengthwise_wire.v1 import worker_pb2

pytestmark = pytest.mark.slow


async def test_prompts_that_arrive_faster_than_they_are_computed_make_prefill_workers(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    async with prompts(release.router, [release.prefill], busy=1.2):
        await start()
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 20.0)
        assert objects.replicas(DECODES) == 1
        await eventually(lambda: objects.events("ScaledOut"))
        # Which of the three is the largest depends on when the scrape falls.
        rules = "throughput|queue|latency"
        assert re.match(f"scaled out from 1 to 2: ({rules}): ", objects.events("ScaledOut")[0])


async def test_a_pool_follows_the_load_of_its_own_model(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    """Prompts are for `toy`; `other` has the pool, until the pool is toy's."""
    release.router.serve("other")
    await release.scraped()

    def pools(model: str) -> list[dict[str, object]]:
        return [pool | {"model": model} for pool in (PREFILL, DECODE)]

    async with prompts(release.router, [release.prefill], busy=1.2):
        others = await start(pools("other"), dry_run=True)
        for _ in range(10):
            await decided(others)
        needed = others._loop._metrics._needed.labels("other", "prefill", "")
        assert needed._value.get() == 0
        await start(pools("toy"))
        await eventually(lambda: objects.replicas(PREFILLS) > 1, 20.0)


async def test_decode_workers_that_will_run_out_of_blocks_get_company_and_lose_it_again(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    release.decode.set(
        running_requests=10, context_tokens=8000, blocks_predicted=1500, queues=(("", 2, 0),)
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


async def test_no_pool_is_scaled_while_all_is_quiet(
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


async def test_a_number_that_another_writer_wrote_stands_for_a_while(
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


async def test_a_dry_run_reports_and_does_nothing(
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
