"""A release as an autoscaler sees it: pods' metrics at a real Prometheus, and their objects at an
API server's stand-in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from harness.exporters import DecodeExporter, Exporter, PrefillExporter, RouterExporter
from harness.kubernetes_objects import FakeObjects, deployment, pod
from harness.prometheus import NAMESPACE, PrometheusServer
from lengthwise_autoscaler.app import AutoscalerApplication

Start = Callable[..., Awaitable[AutoscalerApplication]]

Pools = list[dict[str, Any]]

PREFILL = {
    "name": "prefill",
    "deployment": "demo-lengthwise-prefill",
    "role": "prefill",
    "max_replicas": 4,
}
DECODE = {
    "name": "decode",
    "deployment": "demo-lengthwise-decode",
    "role": "decode",
    "max_replicas": 4,
}


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
