"""Over real gRPC: callers that send no request, read no answer, or hold more calls than there are
places for, cost their own calls and no other."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import grpc
import pytest
from faults.http2 import Connection
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.waiting import eventually

from lengthwise import errors
from lengthwise_runtime import handlers
from lengthwise_runtime.calls import bounded_call
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.server import LIVE, Server
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

SERVICE = "lengthwise.v1.Inference"
GENERATE = f"/{SERVICE}/Generate"
WATCH = "/grpc.health.v1.Health/Watch"
REQUEST = inference_pb2.GenerateRequest().SerializeToString()


class _Service(inference_pb2_grpc.InferenceServicer):
    """Says what happens to it: a response of 40 KB for every step, as fast as it is taken."""

    def __init__(self) -> None:
        self.running = 0
        self.num_steps = 1000
        self.errors: list[BaseException] = []

    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: Any
    ) -> inference_pb2.TokenizeResponse:
        return inference_pb2.TokenizeResponse(token_ids=[1])

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.running += 1
        try:
            for _ in range(self.num_steps):
                yield inference_pb2.GenerateResponse(text="x" * 40_000)
        finally:
            self.running -= 1


class _Running:
    def __init__(self, service: _Service, server: Server, refused: Counter[str]) -> None:
        self.service = service
        self.server = server
        self.refused = refused


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Running]:
    """With four places, and short time-outs."""
    monkeypatch.setattr(bounded_call, "UNREAD_SECONDS", 0.5)
    monkeypatch.setattr(handlers, "REQUEST_SECONDS", 3.0)
    monkeypatch.setattr(handlers, "MAX_PROBES", 4)
    refused: Counter[str] = Counter()
    service = _Service()

    def count(reason: str) -> None:
        refused[reason] += 1

    server = Server("127.0.0.1:0", None, [SERVICE], count=count, max_calls=4)
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server.guarded)
    yield _Running(service, server, refused)
    await server.stop(0.1)


@pytest.fixture
async def address(running: _Running) -> str:
    return str(await running.server.start())


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(address, None)
    yield channel
    await channel.close(None)


async def _is_served(channel: grpc.aio.Channel) -> None:
    stub = inference_pb2_grpc.InferenceStub(channel)
    assert (await stub.Tokenize(inference_pb2.TokenizeRequest(), timeout=10)).token_ids == [1]


async def _read_all(call: Any) -> None:
    while await call.read():
        pass


@pytest.mark.parametrize("path", [b"/a.\xff\xfe/B", b"", b"/", b"no slash", b"/" + b"x" * 120])
async def test_a_path_of_any_bytes_ends_nothing(
    address: str, channel: grpc.aio.Channel, path: bytes
) -> None:
    with closing(Connection(address)) as stranger:
        stranger.begin(path)
        await asyncio.sleep(0.05)
        await _is_served(channel)


@pytest.mark.slow
async def test_calls_without_a_request_yield_to_newer_ones_and_end_in_time(
    running: _Running, address: str, channel: grpc.aio.Channel
) -> None:
    with closing(Connection(address)) as one, closing(Connection(address)) as other:
        for connection in (one, other):
            for _ in range(4):
                connection.begin(GENERATE.encode())
        await eventually(lambda: running.refused["no_request"] == 4)
        await _is_served(channel)
        await eventually(lambda: running.refused["no_request"] >= 8)


@pytest.mark.slow
async def test_a_caller_that_reads_nothing_loses_its_call(
    running: _Running, address: str, channel: grpc.aio.Channel
) -> None:
    with closing(Connection(address)) as connection:
        for _ in range(4):
            connection.call(GENERATE, REQUEST, seconds=86_000)
        await eventually(lambda: running.service.running == 4)
        await eventually(lambda: running.refused["unread"] == 4)
        await eventually(lambda: not running.service.running)
        # The streams are gone too: a connection has places for four.
        await eventually(lambda: connection.num_reset() == 4)
        await _is_served(channel)


@pytest.mark.slow
async def test_a_reader_that_pauses_is_told_to_go_on_where_it_was(
    running: _Running, channel: grpc.aio.Channel
) -> None:
    call = inference_pb2_grpc.InferenceStub(channel).Generate(inference_pb2.GenerateRequest())
    await call.read()
    await eventually(lambda: running.refused["unread"] == 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_all(call)
    metadata: dict[str, str] = dict(caught.value.trailing_metadata())  # type: ignore[arg-type]
    error = errors.from_status(caught.value.code(), caught.value.details() or "", metadata)
    assert isinstance(error, errors.Overloaded)
    assert error.retryable


async def test_one_call_more_than_there_are_places_is_refused_and_counted(
    running: _Running, address: str, channel: grpc.aio.Channel
) -> None:
    with closing(Connection(address)) as connection:
        for _ in range(4):
            connection.call(GENERATE, REQUEST, seconds=60)
        await eventually(lambda: running.service.running == 4)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _is_served(channel)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "lengthwise-retry-after" in dict(caught.value.trailing_metadata())  # type: ignore[arg-type]
    assert running.refused["too_many"] == 1


async def test_watchers_of_health_keep_no_probe_out_and_no_change_waiting(
    running: _Running, address: str, channel: grpc.aio.Channel
) -> None:
    with closing(Connection(address)) as connection, closing(Connection(address)) as other:
        for watcher in (connection, other):
            for _ in range(4):
                watcher.call(WATCH, b"", seconds=60)
        await eventually(lambda: running.refused.total() >= 4)
        await asyncio.wait_for(running.server.set_serving(True), 10)
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", LIVE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_watcher_of_health_is_told_of_every_change(
    running: _Running, channel: grpc.aio.Channel
) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    statuses = health_pb2.HealthCheckResponse
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
    assert (await watch.read()).status == statuses.SERVICE_UNKNOWN
    for serving, expected in ((True, statuses.SERVING), (False, statuses.NOT_SERVING)):
        await running.server.set_serving(serving)
        assert (await watch.read()).status == expected
    watch.cancel()


@pytest.mark.parametrize(
    "method",
    [
        *("/grpc.health.v1.Health/Check", WATCH, GENERATE, f"/{SERVICE}/Tokenize"),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_bytes_that_are_no_message_are_an_invalid_argument_without_a_traceback(
    channel: grpc.aio.Channel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call = channel.stream_stream(method, None, None)(iter([b"\xff\xff\xff"]), timeout=10)
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_all(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


async def test_metadata_of_any_bytes_is_served_without_a_traceback(
    running: _Running, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Connection(address)) as stranger, caplog.at_level(logging.WARNING):
        stranger.call(GENERATE, REQUEST, seconds=60, metadata=b"\xff\xfe\x00" * 20)
        await eventually(lambda: running.service.running == 1)
    await eventually(lambda: not running.service.running)
    assert not caplog.records


async def test_a_call_that_ends_without_a_request_is_an_invalid_argument(
    channel: grpc.aio.Channel,
) -> None:
    call = channel.stream_stream(GENERATE, None, None)(iter([]), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_all(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["a" * 30_000, "\u20ac" * 10_000, "\ud800" * 3000, "%" * 9000])
def test_details_fit_and_show_both_ends(text: str) -> None:
    cut = bounded_call.fitting(f"begin {text} end")
    assert cut.startswith("begin ")
    assert cut.endswith(" end")
    assert len(cut.encode()) <= bounded_call.MAX_DETAIL_BYTES + 8
