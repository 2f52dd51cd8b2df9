"""Where traces are configured, what that costs, and what ends them."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lengthwise_runtime.config import ConfigError, make_config
from lengthwise_runtime.tracing.config import RouterTracingConfig, TracingConfig, tracer_of
from lengthwise_runtime.tracing.tracer import CLOSE_SECONDS, Tracer

NOWHERE = "http://127.0.0.1:9"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_nothing_is_traced_unless_it_is_configured() -> None:
    assert tracer_of(TracingConfig(), "any", "any") is None


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("endpoint=collector:4317", "expected http://host:4317 or https://host:4317"),
        ("sampling_ratio=1.5", r"must lie in \[0, 1\], got 1.5"),
        ("sampling_ratio=nan", r"must lie in \[0, 1\], got nan"),
        ("enabled=true", "enabled: Unexpected keyword argument"),
    ],
)
def test_what_cannot_be_meant_is_refused(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_config({}, RouterTracingConfig, [setting], "router")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lengthwise_runtime.tracing.tracer", None)
    with pytest.raises(ConfigError, match=r"^tracing: .*pip install .lengthwise\[tracing\]"):
        tracer_of(TracingConfig(endpoint=NOWHERE), "any", "any")


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["lengthwise", "lengthwise_router.app", "lengthwise_prefill_worker.app",
     "lengthwise_decode_worker.app"],
)  # fmt: skip
def test_a_process_without_traces_imports_nothing_of_them(module: str) -> None:
    program = f"import sys, {module}; sys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


@pytest.mark.parametrize(
    ("headers", "is_sampled"),
    [
        ([], False),
        ([("traceparent", PARENT)], True),
        ([("traceparent", f"{PARENT[:-1]}0")], False),
        ([("traceparent", PARENT), ("tracestate", "a=" + "x" * 5000)], True),
        ([("traceparent", "00-no")], False),
        ([("traceparent", PARENT.replace("b7ad6b7169203331", "0" * 16))], False),
        ([("traceparent", "\x00é"), ("other-bin", b"\xff")], False),
    ],
)
def test_a_worker_traces_what_its_caller_traces(
    headers: list[tuple[str, str | bytes]], is_sampled: bool
) -> None:
    tracer = Tracer(NOWHERE, 0.0, "any", "any")
    try:
        span = tracer.begin("any", headers)
        assert (span is not None) == is_sampled
        if span is not None:
            assert dict(span.headers())["traceparent"].startswith(PARENT[:36])
    finally:
        tracer.close()


@pytest.mark.slow
def test_many_spans_without_a_collector_are_dropped_and_cost_little() -> None:
    tracer = Tracer(NOWHERE, 1.0, "any", "any")
    began_at = time.monotonic()

    def requests(_: int) -> None:
        for _ in range(500):
            span = tracer.begin("any", ())
            assert span is not None
            span.child("phase", began_at, time.monotonic())
            span.end(time.monotonic(), {"some": 1})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(requests, range(4)))
    assert time.monotonic() - began_at < 10, "4,000 spans"
    began_at = time.monotonic()
    tracer.close()
    assert time.monotonic() - began_at < CLOSE_SECONDS + 8


def test_the_module_that_needs_the_extra_is_loaded_in_one_place() -> None:
    root = Path(__file__).parents[2]
    found = {
        path.relative_to(root).as_posix()
        for folder in ("runtime", "router", "worker", "prefill_worker", "decode_worker")
        for path in (root / folder).rglob("*.py")
        if "\nfrom lengthwise_runtime.tracing.tracer" in path.read_text()
        or "\nfrom opentelemetry" in path.read_text()
    }
    assert found == {"runtime/lengthwise_runtime/tracing/tracer.py"}
