"""A release as an autoscaler sees it: pods' metrics at a real Prometheus, and their objects at an
API server's stand-in."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from harness.kubernetes_objects import FakeObjects, deployment, pod
from harness.prometheus import NAMESPACE, PrometheusServer
from harness.waiting import eventually
from monitoring.exporters import DecodeExporter, Exporter, PrefillExporter, RouterExporter

from lengthwise_autoscaler.app import AutoscalerApplication
from lengthwise_autoscaler.errors import ErrorReason

Start = Callable[..., Awaitable[AutoscalerApplication]]

PREFILLS, DECODES = "demo-lengthwise-prefill", "demo-lengthwise-decode"

Pools = list[dict[str, Any]]

PREFILL = {
    "name": "prefill",
    "deployment": PREFILLS,
    "role": "prefill",
    "max_replicas": 4,
}
DECODE = {
    "name": "decode",
    "deployment": DECODES,
    "role": "decode",
    "max_replicas": 4,
}

QUICK = {"scale_in_seconds": 3.0, "scale_to_zero_seconds": 3.0, "manual_hold_seconds": 2.0}
"""ScalingPolicy's windows, for tests that wait for them."""


class Release:
    """A router, a prefill pod and a decode pod to begin with, each with its exporter."""

    def __init__(self, prometheus: PrometheusServer, objects: FakeObjects) -> None:
        self.prometheus = prometheus
        self.objects = objects
        self.exporters: dict[str, Exporter] = {}
        for pool in (PREFILL, DECODE):
            objects.put("deployments", deployment(str(pool["deployment"]), 1))
        self.router = RouterExporter("router-0")
        self._add(self.router, pod("router-0", component="router"))
        self.prefill = self.add_prefill("prefill-0")
        self.decode = self.add_decode("decode-0")

    def add_prefill(self, name: str, pool: str = "prefill", **how: Any) -> PrefillExporter:
        exporter = PrefillExporter(name, pool)
        self._add(exporter, pod(name, pool=pool, **how))
        return exporter

    def add_decode(self, name: str, pool: str = "decode", **how: Any) -> DecodeExporter:
        exporter = DecodeExporter(name, pool)
        self._add(exporter, pod(name, pool=pool, **how))
        return exporter

    def drop(self, name: str) -> None:
        """The pod goes."""
        if name in self.objects.objects["pods"]:
            self.objects.remove("pods", name)
        self.exporters.pop(name).close()
        self.scrape()

    def scrape(self) -> None:
        self.prometheus.scrape([exporter.target for exporter in self.exporters.values()])

    async def scraped(self, seconds: float = 10.0) -> None:
        """Until all pods have been scraped often enough for rates."""
        text = f'count(count_over_time(up{{namespace="{NAMESPACE}"}}[30s]) >= 3)'
        async with asyncio.timeout(seconds):
            while True:
                result = await asyncio.to_thread(self.prometheus.query, text)
                if result and int(result[0]["value"][1]) == len(self.exporters):
                    return
                await asyncio.sleep(0.1)

    def close(self) -> None:
        for exporter in self.exporters.values():
            exporter.close()

    def _add(self, exporter: Exporter, item: dict[str, Any]) -> None:
        self.exporters[exporter.pod] = exporter
        self.objects.put("pods", item)
        self.scrape()


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
    """An Event reports it, and every pool is as it was."""
    prefix = f"{reason}: "
    await eventually(
        lambda: any(
            text.startswith(prefix) and words in text for text in objects.events("ScalingFailed")
        ),
        seconds,
    )
    assert objects.replicas(PREFILLS) == objects.replicas(DECODES) == 1
    assert "patch deployments/scale" not in objects.requests


async def decided(autoscaler: AutoscalerApplication, seconds: float = 10.0) -> None:
    """Until a round without any error has ended, from now on."""
    before = autoscaler.last_decision
    await eventually(lambda: autoscaler.last_decision > before, seconds)
