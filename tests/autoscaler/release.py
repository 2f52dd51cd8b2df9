"""A release as an autoscaler sees it: pods' metrics at a real Prometheus, and their objects at an
API server's stand-in."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
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
    """A router, a prefill pod and a decode pod to begin with, each with its exporter; and their
    objects, once it is `placed`."""

    def __init__(self, folder: Path) -> None:
        self.prometheus = PrometheusServer(folder)
        self.objects: FakeObjects | None = None
        self.exporters: dict[str, Exporter] = {}
        self.router = RouterExporter("router-0")
        self.prefill = PrefillExporter("prefill-0", "prefill")
        self.decode = DecodeExporter("decode-0", "decode")
        for exporter in (self.router, self.prefill, self.decode):
            self.exporters[exporter.pod] = exporter
        self.scrape()
        self.prometheus.launch()

    def placed(self, objects: FakeObjects) -> "Release":
        for pool in (PREFILL, DECODE):
            objects.put("deployments", deployment(str(pool["deployment"]), 1))
        objects.put("pods", pod("router-0", component="router"))
        objects.put("pods", pod("prefill-0", pool="prefill"))
        objects.put("pods", pod("decode-0", pool="decode"))
        self.objects = objects
        return self

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
        assert self.objects is not None
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
        self.prometheus.stop()
        for exporter in self.exporters.values():
            exporter.close()

    def _add(self, exporter: Exporter, item: dict[str, Any]) -> None:
        assert self.objects is not None
        self.exporters[exporter.pod] = exporter
        self.objects.put("pods", item)
        self.scrape()


class Releases:
    """Two ahead of the tests: Prometheus looks for targets only every 5 s, and so the next releases
    are being scraped while a test uses one."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._ahead = deque(Release(make_folder("release")) for _ in range(2))

    def take(self) -> Release:
        self._ahead.append(Release(self._make_folder("release")))
        taken = self._ahead.popleft()
        taken.prometheus.until_ready()
        return taken

    def close(self) -> None:
        for release in self._ahead:
            release.close()


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
