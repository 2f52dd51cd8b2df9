"""Transfer processes that die or freeze, links that cannot be, workers that drain: requests fail in
bounded time with a reason, and the next ones work."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from harness.samples import Series, samples_of
from harness.waiting import eventually
from harness.workers import (
    PlainRouter,
    TransferTimedOut,
    all_free,
    oracle,
    prompt_of,
    transfer_process_of,
)

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.v1 import decode_pb2, decode_pb2_grpc

pytestmark = pytest.mark.slow

STALL_SECONDS = 2.0


async def _settled(cluster: LocalCluster) -> None:
    await eventually(lambda: all_free(cluster.prefill[0].address, cluster.decode[0].address), 5)


async def _works_again(router: PlainRouter, spec: ToySpec) -> None:
    """A router tries again until a transfer process is back; so does this."""

    async def attempt() -> bool:
        prompt = prompt_of(300)
        try:
            return await router.generate(prompt, 5) == oracle(prompt, 5, spec)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        except TransferTimedOut:  # the link broke before the decode worker heard of this request
            return False
        except AssertionError as error:  # the link broke under this very request
            if "KV link failed" not in str(error):
                raise
            return False

    await eventually(attempt, 30)


@pytest.mark.parametrize("side", ["prefill", "decode"])
async def test_a_killed_transfer_process_is_replaced(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec, side: str
) -> None:
    await router.generate(prompt_of(100), 5)
    worker = cluster.prefill[0] if side == "prefill" else cluster.decode[0]
    transfer_process_of(worker.pid).send_signal(signal.SIGKILL)
    await _works_again(router, toy_spec)
    await _settled(cluster)


@pytest.mark.parametrize("side", ["prefill", "decode"])
async def test_a_frozen_transfer_process_is_replaced_or_its_link_is(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec, side: str
) -> None:
    await router.generate(prompt_of(100), 5)
    worker = cluster.prefill[0] if side == "prefill" else cluster.decode[0]
    frozen = transfer_process_of(worker.pid)
    frozen.send_signal(signal.SIGSTOP)
    number, prompt = router.number(), prompt_of(900)
    await router.reserve(number, prompt, 50)
    call = router.prefill(number, prompt)
    outcome = (await asyncio.gather(call, return_exceptions=True))[0]
    if not isinstance(outcome, BaseException):
        await eventually(lambda: number in router.ended, STALL_SECONDS + 5)
        assert router.ended[number].error
    await router.release(number)
    if frozen.is_running():
        frozen.send_signal(signal.SIGCONT)
    await _works_again(router, toy_spec)
    await _settled(cluster)


async def test_a_decode_worker_that_is_not_there_fails_the_prefill_in_time(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    router.decode_address = "127.0.0.1:1"
    with pytest.raises(grpc.aio.AioRpcError, match="no KV link") as caught:
        await asyncio.wait_for(router.prefill(router.number(), prompt_of(10)), 10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await _settled(cluster)


async def test_workers_of_different_layouts_refuse_each_other(cluster: LocalCluster) -> None:
    channel = open_channel(cluster.decode[0].address, None)

    async def frames() -> AsyncIterator[decode_pb2.TransferFrame]:
        hello = decode_pb2.TransferHello(
            worker_id="other", model_fingerprint="m", layout_fingerprint="l", link="other/0"
        )
        yield decode_pb2.TransferFrame(hello=hello)

    call = decode_pb2_grpc.DecodeWorkerStub(channel).Transfer(frames(), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="cannot exchange KV") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await channel.close(None)


async def test_a_worker_makes_no_new_series_and_finishes_what_it_has(
    toy_folder: Path, toy_spec: ToySpec
) -> None:
    """Labels are known beforehand, or a first event would not be seen by rate()."""
    with LocalCluster(model=toy_folder) as cluster:
        prefill, decode = workers = (cluster.prefill[0], cluster.decode[0])

        async def series() -> list[set[Series]]:
            addresses = [worker.metrics_address for worker in workers]
            return [set(await asyncio.to_thread(samples_of, each)) for each in addresses]

        before = await series()
        router = PlainRouter(prefill.address, decode.address)
        await router.open()
        await router.generate(prompt_of(40), 4)
        prompt = prompt_of(1000)
        running = asyncio.ensure_future(router.generate(prompt, 100))
        await eventually(lambda: router.tokens.get(2))
        assert await series() == before
        decode.kill(signal.SIGTERM)
        prefill.kill(signal.SIGTERM)
        assert await running == oracle(prompt, 100, toy_spec)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.reserve(router.number(), prompt, 5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for process in workers:
            assert await asyncio.to_thread(process.wait, 10) == 0
        await router.close()
