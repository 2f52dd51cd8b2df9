"""A router as a process: configuration, announcement, signals, exit codes."""

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.waiting import eventually
from router.deployment import Running, request
from router.stub_workers import StubDecode, StubPrefill, stub_answer

from lengthwise_router.config import RouterConfig
from lengthwise_runtime.config import ConfigError, load_config
from lengthwise_wire.v1 import inference_pb2_grpc


async def start(config: dict[str, Any], folder: Path) -> asyncio.subprocess.Process:
    path = folder / "router.yaml"
    path.write_text(json.dumps(config))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lengthwise_router", "--config", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.slow
async def test_it_announces_itself_serves_drains_and_exits_with_0(
    stub_checkpoint: Path, tmp_path: Path, running: Running
) -> None:
    decode = StubDecode(step_seconds=0.01)
    prefill = StubPrefill([decode])
    await running(decode, prefill)
    announced = tmp_path / "announced"
    announced.mkdir()
    config = {
        "model": str(stub_checkpoint),
        "listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "announce_folder": str(announced),
        "discovery": {"endpoints": [prefill.address, decode.address]},
    }
    process = await start(config, tmp_path)
    await eventually(lambda: list(announced.glob("*.json")), 20)
    (note,) = (json.loads(path.read_text()) for path in announced.glob("*.json"))
    assert (note["role"], note["pid"]) == ("router", process.pid)
    assert note["metrics"]
    async with grpc.aio.insecure_channel(note["address"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        call = inference_pb2_grpc.InferenceStub(channel).Generate(request(max_tokens=50), timeout=9)
        messages = aiter(call)
        token_ids = list((await anext(messages)).token_ids)
        process.send_signal(signal.SIGTERM)
        token_ids += [token_id async for message in messages for token_id in message.token_ids]
    assert token_ids == stub_answer(b"once upon a time", 50)
    assert await asyncio.wait_for(process.wait(), 5) == 0
    assert not list(announced.glob("*.json"))


@pytest.mark.slow
async def test_a_configuration_that_cannot_work_is_reported_in_one_line(tmp_path: Path) -> None:
    process = await start({"model": "/nowhere", "discovery": {"folder": "x"}}, tmp_path)
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    (line,) = stderr.decode().splitlines()
    assert "model: got '/nowhere', expected a checkpoint folder, a .gguf file" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("listen", "cannot listen on"),
        ("metrics_listen", "cannot serve metrics on"),
        ("http", "cannot serve HTTP on"),
    ],
)
async def test_a_port_that_is_taken_is_told_in_one_line(
    stub_checkpoint: Path, tmp_path: Path, key: str, message: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = {
            "model": str(stub_checkpoint),
            "discovery": {"endpoints": ["127.0.0.1:1"]},
            "listen": "127.0.0.1:0",
            "metrics_listen": "",
            key: {"listen": address} if key == "http" else address,
        }
        process = await start(config, tmp_path)
        _, stderr = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 2
    # gRPC logs a line of its own about its port.
    (line,) = (line for line in stderr.decode().splitlines() if "add_port.cc" not in line)
    assert f"ERROR router {message} {address}" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"modle": 1}, "modle: ", id="unknown key"),
        pytest.param({"strategy": "x"}, "strategy: got 'x', expected one of", id="strategy"),
        pytest.param({"max_attempts": 0}, "max_attempts: expected at least 1", id="attempts"),
        pytest.param({"keepalive_seconds": 0}, "keepalive_seconds: expected", id="keepalive"),
        pytest.param({"drain_seconds": -1}, "drain_seconds: expected", id="drain"),
        pytest.param({"discovery": {}}, "expected either endpoints or folder", id="discovery"),
    ],
)
def test_a_wrong_key_or_value_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = {"model": "x", "discovery": {"endpoints": ["127.0.0.1:1"]}, **change}
    path = tmp_path / "router.yaml"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        load_config(path, RouterConfig)
