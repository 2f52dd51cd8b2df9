"""A broken way between two workers: requests take another one as long as there is one."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from faults.processes import Serve
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.waiting import eventually
from harness.workers import oracle, transfer_processes_of
from router.deployment import PROMPT, request
from router.stub_workers import stub_answer

import lengthwise
from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster, Process
from lengthwise_wire.v1 import common_pb2, inference_pb2_grpc

pytestmark = pytest.mark.timeout(180)  # a whole cluster starts

NUM_TOKENS = 12


@pytest.mark.parametrize("num_decode", [1, 2])
async def test_where_no_transfer_succeeds_a_decode_worker_computes_the_prompt(
    toy: Path, serve: Serve, num_decode: int
) -> None:
    deployment = await serve(toy, 1, num_decode, local_prefill=True)
    deployment.prefill[0].error = lengthwise.TransferFailed("the link is down")
    answer = await deployment.generate(max_tokens=NUM_TOKENS)
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert answer.last.timings.retries <= num_decode


@pytest.mark.slow
async def test_attempts_are_not_burnt_while_the_only_way_is_down_for_a_while(
    toy: Path, serve: Serve
) -> None:
    """With the usual patience: a transfer process is back after 2 to 8 s."""
    deployment = await serve(toy, no_worker_seconds=10.0)
    prefill = deployment.prefill[0]
    prefill.error = lengthwise.TransferFailed("the link is down")

    async def mend() -> None:
        await asyncio.sleep(5.0)
        prefill.error = None

    mending = asyncio.create_task(mend())
    answer = await deployment.generate(max_tokens=NUM_TOKENS, seconds=12.0)
    await mending
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_toy_checkpoint(folder, prefill_seconds_per_token=0.0001, step_seconds=0.005)


@pytest.fixture(scope="module")
def cluster(model: Path) -> Iterator[LocalCluster]:
    """One worker of each role."""
    with LocalCluster(model=model, device="cpu") as cluster:
        yield cluster


@asynccontextmanager
async def without_transfer_process(worker: Process) -> AsyncIterator[None]:
    """It is killed as often as it is started again."""

    async def kill() -> None:
        while True:
            for child in transfer_processes_of(worker.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
            await asyncio.sleep(0.02)

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)


async def ask(cluster: LocalCluster, model: Path, number: int) -> None:
    """By a caller that does not try again, and knows the answer."""
    prompt = [number, *range(200)] * 5
    greedy = common_pb2.SamplingParams(temperature=0)
    message = request(prompt=prompt, max_tokens=NUM_TOKENS, sampling=greedy)
    message.stop.ignore_eos = True
    async with grpc.aio.insecure_channel(cluster.endpoint) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(message, timeout=30)
        answer = [token_id async for piece in call for token_id in piece.token_ids]
    spec = read_toy_spec(ConfigJson.read(model / "config.json"))
    assert answer == oracle(prompt, NUM_TOKENS, spec)


@pytest.mark.slow
async def test_no_request_fails_while_a_decode_worker_has_no_transfer_process(
    cluster: LocalCluster, model: Path
) -> None:
    await ask(cluster, model, 1)
    async with without_transfer_process(cluster.decode[0]):
        await asyncio.gather(*(ask(cluster, model, number) for number in range(2, 8)))


@pytest.mark.slow
async def test_a_prefill_worker_without_a_transfer_process_does_not_say_that_it_is_ready(
    cluster: LocalCluster,
) -> None:
    async def is_ready() -> bool:
        async with grpc.aio.insecure_channel(cluster.prefill[0].address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def is_not_ready() -> bool:
        return not await is_ready()

    await eventually(is_ready, 60)
    async with without_transfer_process(cluster.prefill[0]):
        await eventually(is_not_ready, 10)
    await eventually(is_ready, 60)
