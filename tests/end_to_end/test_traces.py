"""Traces of requests, as an OTLP collector gets them from a whole deployment."""

import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from end_to_end.collector import Collector, Seen, collecting
from harness.waiting import eventually, until
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import lengthwise
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PHASES = ("tokenise", "queue", "placement", "reserve", "prefill", "transfer", "decode")
SECRET = "a prompt that is a secret "
ALL = {"router": 1 + len(PHASES), "prefill-worker": 4, "decode-worker": 4}
"""Spans of a request that meets both workers."""


def cluster_of(model: Path, endpoint: str) -> LocalCluster:
    """Its router traces no request whose caller does not."""
    settings = [
        f"tracing.endpoint={endpoint}",
        "router.tracing.sampling_ratio=0",
        "router.local_prefill=false",
    ]
    env = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_RESOURCE_ATTRIBUTES": "team=ours"}
    return LocalCluster(model=model, settings=settings, env=env, http_port=0)


@pytest.fixture(scope="module")
def traced(toy_folder: Path) -> Iterator[tuple[Collector, LocalCluster]]:
    with collecting() as collector, cluster_of(toy_folder, collector.endpoint) as cluster:
        yield collector, cluster


def new_context(*, sampled: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(secrets.randbits(128), secrets.randbits(64), False, flags)


@contextmanager
def within(context: SpanContext) -> Iterator[None]:
    """As a program that traces itself."""
    with trace.use_span(NonRecordingSpan(context)):
        yield


def services(spans: list[Seen]) -> Counter[str]:
    return Counter(seen.service.removeprefix("lengthwise-") for seen in spans)


def test_a_request_is_one_trace_across_its_processes(
    traced: tuple[Collector, LocalCluster],
) -> None:
    collector, cluster = traced
    context = new_context(sampled=True)
    with lengthwise.Client(cluster.endpoint) as client, within(context):
        reply = client.generate(SECRET, max_tokens=20)
    until(lambda: services(collector.of(context.trace_id)) == ALL)
    spans = collector.of(context.trace_id)
    by_name = {(seen.service.removeprefix("lengthwise-"), seen.span.name): seen for seen in spans}
    assert len(by_name) == len(spans)

    root = by_name["router", "generate"]
    assert root.span.parent_span_id == context.span_id.to_bytes(8, "big")
    assert root.facts["request_id"] == reply.request_id
    assert root.facts["output_tokens"] == 20
    phases = [by_name["router", name].span for name in PHASES]
    workers = [by_name[f"{role}-worker", f"{role} worker"] for role in ("prefill", "decode")]
    for child in (*phases, *(worker.span for worker in workers)):
        assert child.parent_span_id == root.span.span_id
    assert phases[0].start_time_unix_nano == root.span.start_time_unix_nano
    for before, after in pairwise(phases):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert phases[-1].end_time_unix_nano <= root.span.end_time_unix_nano
    for worker, names in zip(
        workers, (("queue", "compute", "transfer"), ("reserve", "receive", "decode")), strict=True
    ):
        for name in names:
            child = by_name[worker.service.removeprefix("lengthwise-"), name].span
            assert child.parent_span_id == worker.span.span_id
            assert child.start_time_unix_nano <= child.end_time_unix_nano
    assert workers[1].facts["output_tokens"] == 20
    assert not [seen for seen in spans if seen.span.status.code]
    told = "".join(str(seen.span) for seen in spans)
    assert SECRET.strip() not in told
    assert reply.text not in told


def test_http_continues_a_trace_too(traced: tuple[Collector, LocalCluster]) -> None:
    collector, cluster = traced
    context = new_context(sampled=True)
    header = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    with lengthwise.Client(cluster.endpoint) as client:
        name = client.model().name
    answer = httpx.post(
        f"http://{cluster.routers[0].http_address}/v1/completions",
        json={"model": name, "prompt": SECRET, "max_tokens": 3},
        headers={"traceparent": header},
    )
    assert answer.status_code == 200, answer.text
    until(lambda: "router" in services(collector.of(context.trace_id)))


async def test_the_asynchronous_client_continues_a_trace_too(
    traced: tuple[Collector, LocalCluster],
) -> None:
    collector, cluster = traced
    context = new_context(sampled=True)
    async with lengthwise.AsyncClient(cluster.endpoint) as client:
        with within(context):
            await client.generate(SECRET, max_tokens=3)
    await eventually(lambda: services(collector.of(context.trace_id)) == ALL)


def test_what_is_not_sampled_is_not_exported(traced: tuple[Collector, LocalCluster]) -> None:
    """By the caller's word, or by the ratio where there is no word, or none that can be read."""
    collector, cluster = traced
    unsampled, sampled = new_context(sampled=False), new_context(sampled=True)
    before = {seen.span.trace_id for seen in collector.spans}
    with lengthwise.Client(cluster.endpoint) as client:
        client.generate(SECRET, max_tokens=3)
        with within(unsampled):
            client.generate(SECRET, max_tokens=3)
        with within(sampled):
            client.generate(SECRET, max_tokens=3)
    until(lambda: services(collector.of(sampled.trace_id)) == ALL)
    new = {seen.span.trace_id for seen in collector.spans} - before
    assert new == {sampled.trace_id.to_bytes(16, "big")}


def test_a_request_that_fails_says_where(traced: tuple[Collector, LocalCluster]) -> None:
    collector, cluster = traced
    context = new_context(sampled=True)
    with (
        lengthwise.Client(cluster.endpoint) as client,
        within(context),
        pytest.raises(lengthwise.errors.DeadlineExceeded),
    ):
        client.generate(SECRET, max_tokens=2000, timeout=1.0)
    until(lambda: services(collector.of(context.trace_id)) == ALL)
    spans = collector.of(context.trace_id)
    failed = {seen.span.name: seen for seen in spans if seen.span.status.code}
    assert failed["generate"].span.status.message == "DEADLINE_EXCEEDED"
    assert failed["decode"].service == "lengthwise-router"
    (held,) = (seen for seen in spans if seen.span.name == "decode worker")
    assert held.facts["finished"] is False


def test_a_collector_that_takes_nothing_costs_requests_nothing(toy_folder: Path) -> None:
    """It accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster = cluster_of(toy_folder, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with cluster:
            with lengthwise.Client(cluster.endpoint) as client, within(new_context(sampled=True)):
                for _ in range(20):
                    client.generate(SECRET, max_tokens=2, timeout=10.0)
            began_at = time.monotonic()
            assert cluster.stop(keep_folder=True) == [], "each ended by itself"
            assert time.monotonic() - began_at < 20
            logs = "".join(process.log_path.read_text() for process in cluster.processes)
        assert "Traceback" not in logs
