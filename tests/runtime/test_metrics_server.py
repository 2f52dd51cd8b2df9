"""Callers that connect and ask nothing, send other bytes than HTTP, or take what descriptors there
are, keep no scrape and no probe out, and cost no thread."""

import contextlib
import logging
import resource
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.keys import make_keys
from harness.waiting import until
from prometheus_client import CollectorRegistry, Counter, Gauge

from lengthwise_runtime import metrics_server
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.health import Liveness
from lengthwise_runtime.metrics import serve_metrics
from lengthwise_runtime.tls.config import TlsConfig


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("steps", "Steps", registry=registry).inc(3)
    return registry


@pytest.fixture
def address(registry: CollectorRegistry) -> Iterator[Address]:
    server = serve_metrics("127.0.0.1:0", registry, Liveness())
    assert server is not None
    yield server.address
    server.close()


def _scrape(address: Address, context: ssl.SSLContext | None = None) -> str:
    scheme = "http" if context is None else "https"
    url = f"{scheme}://{address}/metrics"
    with urllib.request.urlopen(url, timeout=20, context=context) as reply:
        return str(reply.read().decode())


def _connected(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=10)


def test_idle_connections_take_no_thread_and_keep_nobody_out(address: Address) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(metrics_server.MAX_CONNECTIONS + 100):
            stack.enter_context(_connected(address))
        assert "steps_total 3.0" in _scrape(address)
        assert threading.active_count() <= before


def test_a_connection_that_asks_nothing_is_closed_in_time(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_SECONDS", 0.2)
    with _connected(address) as idle:
        assert idle.recv(1) == b""
    with _connected(address) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert slow.recv(1) == b""


@pytest.mark.parametrize(
    "data",
    [
        *(b"\xff" * 100, b"\n\n\n\n", b"GET\r\n\r\n"),
        *(
            b"GET / HTTP/1.1\r\n" + b"a" * 40_000,
            b"\x16\x03\x01\x02\x00\x01",
            b"PRI * HTTP/2.0\r\n",
        ),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_cost_their_connection(
    address: Address, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), _connected(address) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        answer = stranger.recv(1 << 16)
        assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer
        assert "steps_total 3.0" in _scrape(address)
    assert not caplog.records


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", b"200"), ("CONNECT", b"405"), ("OPTIONS", b"405"), ("POST", b"405")],
)
def test_every_method_has_an_answer(
    address: Address, method: str, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with _connected(address) as stranger:
        stranger.sendall(f"{method} /metrics HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        with stranger.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert bool(body) == (method != "HEAD")
    assert "steps_total 3.0" in _scrape(address)
    assert not caplog.records


@pytest.mark.slow
def test_without_a_descriptor_it_waits_and_says_so(
    address: Address, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "PAUSE_SECONDS", 0.1)
    waiting = _connected(address)
    waiting.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        caller = stack.enter_context(socket.socket())
        highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    stack.enter_context(socket.socket())
            caller.connect((address.host, address.port))
            until(lambda: len(caplog.records) >= 2)
            began_at, cpu = time.monotonic(), time.process_time()
            time.sleep(0.5)
            assert time.process_time() - cpu < 0.5 * (time.monotonic() - began_at)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "steps_total 3.0" in _scrape(address)


def test_scrapes_at_once_share_renderings_and_each_sees_what_was_so_when_it_asked(
    address: Address, registry: CollectorRegistry
) -> None:
    rendered: list[float] = []

    def slow() -> float:
        rendered.append(time.monotonic())
        time.sleep(0.02)
        return len(rendered)

    Gauge("slow", "Slow", registry=registry).set_function(slow)
    asked_after = len(rendered)
    with ThreadPoolExecutor(20) as pool:
        texts = list(pool.map(lambda _: _scrape(address), range(40)))
    assert all(f"slow {asked_after}" not in text for text in texts)
    assert len(rendered) < 20


def test_metrics_are_served_over_tls_to_callers_with_a_certificate(
    registry: CollectorRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_keys(tmp_path)
    tls = TlsConfig(
        certificate=keys / "server.pem", private_key=keys / "server.key", authority=keys / "ca.pem"
    )
    server = serve_metrics("127.0.0.1:0", registry, Liveness(), tls)
    assert server is not None
    context = ssl.create_default_context(cafile=keys / "ca.pem")
    with caplog.at_level(logging.WARNING):
        with _connected(server.address) as stranger:
            stranger.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert b"steps" not in stranger.recv(1 << 16)
        with pytest.raises(OSError, match=r"(?i)certificate|reset|EOF|closed"):
            _scrape(server.address, context)
        context.load_cert_chain(keys / "client.pem", keys / "client.key")
        assert "steps_total 3.0" in _scrape(server.address, context)
    server.close()
    assert not caplog.records


def test_a_key_that_is_none_is_the_operators_to_mend(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("no key")
    tls = TlsConfig(certificate=tmp_path / "key", private_key=tmp_path / "key")
    with pytest.raises(ConfigError, match="metrics_tls"):
        serve_metrics("127.0.0.1:0", registry, Liveness(), tls)
