"""Probes over HTTP and gRPC: what they answer of a process that starts, serves, drains, hangs."""

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Counter

from lengthwise_runtime import health
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.config import Address
from lengthwise_runtime.health import Liveness
from lengthwise_runtime.metrics import serve_metrics
from lengthwise_runtime.server import LIVE, Server


def _get(address: Address, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def liveness() -> Liveness:
    return Liveness()


@pytest.fixture
def address(liveness: Liveness) -> Iterator[Address]:
    registry = CollectorRegistry()
    Counter("steps", "Steps", registry=registry).inc(3)
    served = serve_metrics("127.0.0.1:0", registry, liveness)
    assert served is not None
    yield served.address
    served.close()


async def test_a_process_that_serves_is_healthy_and_alive(
    liveness: Liveness, address: Address
) -> None:
    liveness.start()
    liveness.serving = True
    assert await asyncio.to_thread(_get, address, "/healthz") == (200, "ok\n")
    assert await asyncio.to_thread(_get, address, "/livez") == (200, "ok\n")


async def test_a_process_says_how_many_tasks_it_has(liveness: Liveness, address: Address) -> None:
    tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(5)]
    liveness.start()
    _, text = await asyncio.to_thread(_get, address, "/metrics")
    (count,) = re.findall(r"^lengthwise_tasks (\S+)$", text, re.MULTILINE)
    assert float(count) > len(tasks)
    for task in tasks:
        task.cancel()


async def test_a_process_that_starts_or_drains_is_alive_but_not_healthy(
    liveness: Liveness, address: Address
) -> None:
    liveness.start()
    answer = await asyncio.to_thread(_get, address, "/healthz")
    assert answer == (503, "not serving: it starts or drains\n")
    assert await asyncio.to_thread(_get, address, "/livez") == (200, "ok\n")


@pytest.mark.slow
async def test_a_stuck_event_loop_is_reported_while_it_is_stuck(
    liveness: Liveness, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STUCK_SECONDS", 0.2)
    liveness.start()
    liveness.serving = True
    time.sleep(0.3)  # noqa: ASYNC251 - this is the loop that is stuck
    for path in ("/livez", "/healthz"):  # asked from the very thread that blocks the loop
        status, reason = _get(address, path)
        assert status == 503
        assert "the event loop has not turned for" in reason
    async with asyncio.timeout(5):
        while liveness.stuck():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await asyncio.to_thread(_get, address, "/healthz") == (200, "ok\n")


async def test_metrics_are_served_beside_the_probes(liveness: Liveness, address: Address) -> None:
    status, text = await asyncio.to_thread(_get, address, "/metrics")
    assert status == 200
    assert "steps_total 3.0" in text


async def test_a_server_that_drains_stays_alive_for_grpc_probes_too() -> None:
    server = Server("127.0.0.1:0", None, ["lengthwise.v1.Inference"])
    channel = open_channel(str(await server.start()), None)
    stub = health_pb2_grpc.HealthStub(channel)

    async def status(service: str) -> str:
        asked = health_pb2.HealthCheckRequest(service=service)
        answer = await stub.Check(asked, timeout=5)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    await server.set_serving(True)
    assert (await status(""), await status(LIVE), server.liveness.trouble()) == (
        "SERVING",
        "SERVING",
        "",
    )
    await server.set_serving(False)
    assert (await status(""), await status(LIVE)) == ("NOT_SERVING", "SERVING")
    assert server.liveness.trouble() == "not serving: it starts or drains"
    with pytest.raises(grpc.aio.AioRpcError):
        await status("unknown")
    await channel.close(None)
    await server.stop(0.1)
