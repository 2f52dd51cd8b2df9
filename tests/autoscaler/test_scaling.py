"""Pools follow their load: from metrics that real code exports, through a real Prometheus."""

import asyncio

import pytest
from harness.kubernetes_objects import FakeObjects
from harness.release import Release, Start
from harness.workers import eventually

pytestmark = pytest.mark.slow


async def arrive(release: Release, seconds: float = 30.0) -> None:
    """6 prompts of 1000 tokens a second, that keep the worker 1.2 s busy each second."""
    async with asyncio.timeout(seconds):
        while True:
            release.router.arrive("long", 1000, ttft=0.5)
            release.prefill.compute("long", 1000, seconds=0.2)
            await asyncio.sleep(1 / 6)


async def test_prompts_that_arrive_faster_than_they_are_computed_make_prefill_workers(
    release: Release, start: Start, objects: FakeObjects
) -> None:
    await release.scraped()
    load = asyncio.create_task(arrive(release))
    await start()
    await eventually(lambda: objects.replicas("demo-lengthwise-prefill") > 1, 20.0)
    load.cancel()
    assert objects.replicas("demo-lengthwise-decode") == 1
    await eventually(lambda: objects.events("ScaledOut"))
    assert "scaled out from 1 to" in objects.events("ScaledOut")[0]
