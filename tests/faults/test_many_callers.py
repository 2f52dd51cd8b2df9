"""Callers by the thousand, callers that never read, and callers that write into logs: each is told
what it is, all are counted, and others are served."""

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from faults.http2 import MAX_CONCURRENT_STREAMS, Connection
from faults.processes import Serve, alone
from harness.samples import samples_of
from harness.waiting import eventually
from router.deployment import request

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import Process
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

GENERATE = "/lengthwise.v1.Inference/Generate"
MOST_STREAMS = 1 << 20
"""gRPC says as many as it can count where nothing was set."""


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Takes four requests at once."""
    folder = tmp_path_factory.mktemp("many")
    few: dict[str, object] = {"max_requests_in_flight": 4, "max_queued": 0}
    model = write_toy_checkpoint(folder / "toy")
    with alone("router", model, folder, no_worker_seconds=0.2, **few) as router:
        yield router


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_of_thousands_of_calls_at_once_each_gets_an_answer_and_is_counted(
    router: Process,
) -> None:
    count = 2500
    async with grpc.aio.insecure_channel(router.address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)

        async def ask() -> tuple[grpc.StatusCode, bool]:
            try:
                async for _ in stub.Generate(request(max_tokens=4), timeout=60):
                    raise AssertionError("there is no worker")
            except grpc.aio.AioRpcError as error:
                pairs: Any = error.trailing_metadata() or ()
                keys = [str(key) for key, _ in pairs]
                return error.code(), any("retry-after" in key for key in keys)
            raise AssertionError("neither tokens nor an error")

        await stub.GetModel(inference_pb2.GetModelRequest(), timeout=10)
        router.kill(signal.SIGSTOP)  # so that all find it together, however busy the machine is
        asking = asyncio.gather(*(ask() for _ in range(count)))
        await asyncio.sleep(2.0)
        router.kill(signal.SIGCONT)
        answers = Counter(await asking)
    waited, refused = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
    assert set(answers) <= {(waited, False), (waited, True), (refused, True)}
    samples = await asyncio.to_thread(samples_of, router.metrics_address)
    counted = [value for (name, _), value in samples.items() if name == "lengthwise_requests_total"]
    assert sum(counted) == count


def test_a_connection_is_told_how_many_calls_it_may_have(router: Process) -> None:
    connection = Connection(router.address)
    with contextlib.closing(connection):
        assert connection.settings().get(MAX_CONCURRENT_STREAMS, MOST_STREAMS) < MOST_STREAMS


@pytest.mark.slow
def test_an_error_that_quotes_too_much_stays_the_error_it_is(router: Process) -> None:
    wanted = pytest.raises(lengthwise.ModelNotFound)
    with lengthwise.Client(router.address) as client, wanted as caught:
        client.generate("a", model="m" * 20_000, max_tokens=1, timeout=2.0)
    assert len(str(caught.value)) < 4096


@pytest.mark.slow
async def test_idle_connections_to_the_metrics_port_take_few_threads(router: Process) -> None:
    host, _, port = router.metrics_address.rpartition(":")
    process = psutil.Process(router.pid)
    before = process.num_threads()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            idle = stack.enter_context(socket.socket())
            idle.setblocking(False)
            idle.connect_ex((host, int(port)))
            await asyncio.sleep(0.005)  # so that none is lost because too many come at once
        await asyncio.sleep(0.2)
        assert process.num_threads() < before + 32


@pytest.mark.slow
async def test_calls_that_are_never_read_make_room_for_one_that_is(toy: Path, serve: Serve) -> None:
    deployment = await serve(toy, max_requests_in_flight=8, max_queued=0)
    connection = Connection(str(deployment.app.address))
    message = request(max_tokens=1).SerializeToString()
    with contextlib.closing(connection):
        for _ in range(8):
            connection.call(GENERATE, message, seconds=86_000)
        await eventually(lambda: deployment.in_flight == 8)
        for _ in range(250):
            await asyncio.sleep(0.1)
            connection.answer_pings()
            if deployment.in_flight < 8:
                break
        assert (await deployment.generate(max_tokens=1)).token_ids


@pytest.mark.parametrize("request_id", ["x\n23:59:59 CRITICAL forged", "\x1b[2J", "\u202e"])
async def test_a_request_id_that_would_forge_a_log_is_refused(
    toy: Path, serve: Serve, request_id: str
) -> None:
    deployment = await serve(toy)
    error = await deployment.refused(request_id=request_id, max_tokens=1)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "request_id" in error.details()
