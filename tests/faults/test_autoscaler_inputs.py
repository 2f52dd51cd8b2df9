"""An autoscaler between a Prometheus that lies and an API server that remembers: it holds what it
cannot judge, says so, and never ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from autoscaler.release import DECODE, DECODES, PREFILL, PREFILLS, QUICK
from harness.kubernetes_api import api_server
from harness.kubernetes_objects import FakeObjects, deployment, pod
from harness.prometheus import NAMESPACE
from harness.waiting import eventually

from lengthwise_autoscaler.app import AutoscalerApplication
from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_autoscaler.load.queries import queries
from lengthwise_runtime.config import load_config

Rows = list[tuple[dict[str, str], object]]
Lie = Callable[[str, Rows], Rows]

SCRAPE_SECONDS = 0.5
WINDOW_SECONDS = 2.0
HOLD_SECONDS = 1.0
NAMES = {
    text: name
    for name, text in queries(
        NAMESPACE, "demo", window_seconds=WINDOW_SECONDS, scrape_interval_seconds=SCRAPE_SECONDS
    ).items()
}

LENGTHS = ({"length_class": "short"}, {"length_class": "long"})
PODS = ({"pod": "router-0"}, {"pod": "prefill-0"}, {"pod": "decode-0"})
PREFILL_LENGTHS = tuple({"pool": "prefill", **length} for length in LENGTHS)
DECODE_POOL = ({"pool": "decode"},)
COSTS = {"step": 0.005, "token": 0.0003, "attention": 0.0, "history": 0.0}
COSTS |= {"decode_request": 0.0005, "decode_context": 1e-7}


def _rows(labels: Iterable[dict[str, str]], value: float) -> Rows:
    return [(each, value) for each in labels]


TRUTH: Mapping[str, Rows] = {
    "sample_age": _rows(PODS, 0.2),
    "scraped": _rows(PODS, 1),
    "pod_requests": _rows(PODS, 3),
    "pod_cached": _rows(PODS, 3),
    "arrived_requests": _rows(LENGTHS, 0.5),
    "arrived_tokens": _rows(LENGTHS, 1000),
    "recent_tokens": _rows(LENGTHS, 1000),
    "ttft": _rows(LENGTHS, 0.2),
    "output_tokens": [({}, 100)],
    "waiting_requests": [({}, 0)],
    "tpot": [({}, 0.02)],
    "prefill_tokens": _rows(PREFILL_LENGTHS, 1000),
    "prefill_busy": _rows(PREFILL_LENGTHS, 0.25),
    "queue_seconds": _rows(PREFILL_LENGTHS, 0.02),
    "queued_tokens": [
        *_rows(({"role": "prefill", **each} for each in PREFILL_LENGTHS), 0),
        ({"role": "decode", "pool": "decode", "length_class": ""}, 0),
    ],
    "decode_running": _rows(DECODE_POOL, 5),
    "decode_context": _rows(DECODE_POOL, 5000),
    "decode_queued": _rows(DECODE_POOL, 0),
    "decode_predicted": _rows(DECODE_POOL, 500),
    "decode_blocks": _rows(DECODE_POOL, 2000),
    "decode_workers": _rows(DECODE_POOL, 1),
    "block_tokens": _rows(DECODE_POOL, 16),
    "generated_tokens": _rows(DECODE_POOL, 100),
    "mean_workers": [({"role": role, "pool": role}, 1) for role in ("prefill", "decode")],
    "cost": [
        ({"role": role, "pool": role, "coefficient": name}, seconds)
        for role in ("prefill", "decode")
        for name, seconds in COSTS.items()
    ],
}


class Prometheus:
    """Answers with the truth, changed by `lie`, or with `raw` bytes whatever is asked."""

    def __init__(self) -> None:
        self.lie: Lie = lambda name, rows: rows
        self.raw: tuple[int, bytes] | None = None
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.raw is not None:
            return web.Response(status=self.raw[0], body=self.raw[1])
        name = NAMES[request.query["query"]]
        result = [
            {"metric": labels, "value": [time.time(), str(value)]}
            for labels, value in self.lie(name, TRUTH[name])
        ]
        return web.Response(body=_vector(result))

    async def rounds(self, count: int) -> None:
        """Waits until it was asked everything so often again."""
        wanted = self.asked + (count + 1) * len(NAMES)
        await eventually(lambda: self.asked >= wanted, 20)


def _vector(result: object) -> bytes:
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data}).encode()


class Release:
    """An autoscaler that has settled on one worker of each role."""

    def __init__(
        self, prometheus: Prometheus, objects: FakeObjects, ended: "asyncio.Task[BaseException]"
    ) -> None:
        self.prometheus = prometheus
        self.objects = objects
        self.ended = ended

    def goes_on(self) -> None:
        """Fails when the autoscaler has ended."""
        assert not self.ended.done(), f"it ended: {self.ended.result()!r}"

    async def holds(self, rounds: int = 2, what: str = "") -> None:
        """Fails unless it goes on and touches nothing for so many rounds."""
        passing = asyncio.create_task(self.prometheus.rounds(rounds))
        await asyncio.wait([passing, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            passing.cancel()
        self.goes_on()
        await passing
        assert "patch deployments/scale" not in self.objects.requests, what


@asynccontextmanager
async def _served(prometheus: Prometheus) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/api/v1/query", prometheus.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def release(tmp_path: Path) -> AsyncIterator[Release]:
    prometheus = Prometheus()
    async with api_server() as server, _served(prometheus) as url:
        for name in (PREFILLS, DECODES):
            server.objects.put("deployments", deployment(name, 1))
        server.objects.put("pods", pod("router-0", component="router"))
        for role in ("prefill", "decode"):
            server.objects.put("pods", pod(f"{role}-0", pool=role))
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": server.configuration.host}}],
            "contexts": [{"name": "x", "context": context}],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        config = {
            "prometheus": {
                "url": url,
                "timeout_seconds": 10.0,
                "scrape_interval_seconds": SCRAPE_SECONDS,
                "window_seconds": WINDOW_SECONDS,
            },
            "release": "demo",
            "lease": "lease",
            "metrics_listen": "",
            "kubeconfig": str(tmp_path / "kubeconfig"),
            "interval_seconds": 0.1,
            "scaling": {**QUICK, "manual_hold_seconds": HOLD_SECONDS},
            "pools": [{**PREFILL, "max_replicas": 8}, {**DECODE, "max_replicas": 8}],
        }
        (tmp_path / "autoscaler.yaml").write_text(yaml.safe_dump(config))
        application = AutoscalerApplication(
            load_config(tmp_path / "autoscaler.yaml", AutoscalerConfig)
        )
        await application.start()
        ended = asyncio.create_task(application.failed())
        try:
            await eventually(lambda: application.last_decision, 20)
            yield Release(prometheus, server.objects, ended)
        finally:
            await application.drain()
            await asyncio.gather(ended, return_exceptions=True)


def all_are(value: object, *names: str) -> Lie:
    """Of these queries, or of all."""
    return lambda name, rows: (
        [(labels, value) for labels, _ in rows] if not names or name in names else rows
    )


HELD: Mapping[str, Lie] = {
    **{f"all {value}": all_are(value) for value in (-1, 0, 1e308)},
    "nothing": lambda name, rows: [],
    "no labels": lambda name, rows: [({}, value) for _, value in rows],
    "age 100": all_are(100, "sample_age"),
    "not scraped": all_are(0, "scraped"),
    "negative requests": all_are(-5, "pod_requests"),
    "costs NaN": all_are("NaN", "cost"),
    "costs 0": all_are(0, "cost"),
    "no arrivals": lambda name, rows: [] if name == "arrived_tokens" else rows,
    "nothing observed": all_are("NaN", "ttft", "queue_seconds", "tpot", "output_tokens"),
    "negative times": all_are(-1, "ttft", "queue_seconds", "tpot", "output_tokens"),
}
BELIEVED: Mapping[str, Lie] = {
    "all NaN": all_are("NaN"),
    "all +Inf": all_are("+Inf"),
    "requests NaN": all_are("NaN", "pod_requests"),
    "cached +Inf": all_are("+Inf", "pod_cached"),
    "every row twice": lambda name, rows: rows + rows,
}
LABELS = {"pod": ["a"], "length_class": ["x"], "pool": ["q"]}
ANSWERED: Mapping[str, tuple[int, bytes]] = {
    "500": (500, b"oops"),
    "HTML": (200, b"<html>"),
    "an error": (200, b'{"status":"error","errorType":"x","error":"y"}'),
    "null": (200, b"null"),
    "no vector": (200, _vector(None)),
    "no number": (200, _vector([{"metric": {}, "value": [0, None]}])),
    "a long number": (200, _vector([{"metric": {}, "value": [0, "9" * 5000]}])),
    "no UTF-8": (200, b"\xff\xfe"),
    "5 MB": (200, b" " * (5 << 20)),
    "a redirection": (302, b""),
}


@pytest.mark.slow
async def test_the_truth_is_no_reason_to_scale(release: Release) -> None:
    await release.holds(10)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_lies_that_can_be_seen_through_are_held(release: Release) -> None:
    for what, lie in HELD.items():
        release.prometheus.lie = lie
        await release.holds(1, what)


@pytest.mark.slow
async def test_answers_that_are_no_vectors_are_held(release: Release) -> None:
    for release.prometheus.raw in ANSWERED.values():
        await asyncio.sleep(0.15)
        release.goes_on()
    release.prometheus.raw = None
    await release.holds()


@pytest.mark.slow
@pytest.mark.parametrize("lie", BELIEVED.values(), ids=BELIEVED.keys())
async def test_numbers_that_no_release_has_are_held(release: Release, lie: Lie) -> None:
    release.prometheus.lie = lie
    await release.holds()
    events = release.objects.events("ScalingFailed")
    assert any(text.startswith(("data_implausible: ", "data_stale: ")) for text in events)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 200_000, id="nested"),
        pytest.param(_vector([{"metric": LABELS, "value": [0, "1"]}]), id="lists for labels"),
    ],
)
async def test_answers_of_odd_shapes_are_held(release: Release, body: bytes) -> None:
    release.prometheus.raw = (200, body)
    await release.holds()


@pytest.mark.slow
async def test_implausibly_many_workers_are_no_reason_to_scale(release: Release) -> None:
    for workers in (1e308, 8):
        release.prometheus.lie = all_are(workers, "mean_workers")
        await release.holds(10)


@pytest.mark.slow
async def test_bounds_are_kept_without_metrics(release: Release) -> None:
    release.prometheus.raw = (500, b"oops")
    await release.prometheus.rounds(0)
    release.objects.edit(PREFILLS, 0)  # of at least 1
    await eventually(lambda: release.objects.replicas(PREFILLS) == 1, 3 * HOLD_SECONDS)
