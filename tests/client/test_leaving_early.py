"""A caller that leaves a stream frees its request at once, and no thread stays behind."""

import asyncio
import threading
import time
from contextlib import aclosing
from typing import Any

import pytest
from client.scripted_router import Responses, Router, words
from harness.waiting import until

from lengthwise import AsyncClient, Cancelled, Client, Timeout
from lengthwise_wire.v1 import inference_pb2

WATCHDOG = "lengthwise-watchdog"


def endless(router: Router) -> None:
    """The next call sends one token and then nothing."""

    def script(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "a")
        router.freeze()

    router.scripts.append(script)


def watchdogs() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == WATCHDOG]


def test_leaving_the_loop_cancels_the_request(router: Router) -> None:
    endless(router)
    with Client(router.address) as client:
        for chunk in client.stream("hi"):
            assert chunk.text == "a"
            break
        assert router.ended.wait(5)


def test_closing_the_iterator_cancels_the_request(router: Router) -> None:
    endless(router)
    with Client(router.address) as client:
        stream = client.stream("hi")
        next(stream)
        stream.close()
        assert router.ended.wait(5)


def test_closing_the_client_ends_a_stream_that_waits_in_another_thread(router: Router) -> None:
    endless(router)
    client = Client(router.address)
    stream = client.stream("hi")
    next(stream)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(Cancelled, match="the client was closed"):
        next(stream)
    with pytest.raises(Cancelled, match="the client is closed"):
        client.generate("hi")


def test_no_watchdog_is_left_when_no_stream_is_open(router: Router) -> None:
    endless(router)
    with Client(router.address) as client:
        stream = client.stream("hi")
        next(stream)
        assert watchdogs() == [WATCHDOG]
        stream.close()
        until(lambda: not watchdogs(), 5.0)


@pytest.mark.slow
def test_a_caller_that_is_slow_to_ask_does_not_count_as_silence(router: Router) -> None:
    def script(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "a")
        yield words(1, "b")
        router.freeze()

    router.scripts.append(script)
    with Client(router.address) as client:
        stream = client.stream("hi", timeout=Timeout(silence=0.2))
        next(stream)
        time.sleep(0.6)
        assert next(stream).text == "b"
        stream.close()
    assert len(router.requests) == 1


async def test_leaving_an_async_loop_cancels_the_request(router: Router) -> None:
    endless(router)
    async with AsyncClient(router.address) as client:
        async with aclosing(client.stream("hi")) as stream:
            async for chunk in stream:
                assert chunk.text == "a"
                break
        assert await asyncio.to_thread(router.ended.wait, 5)


async def test_cancelling_a_task_cancels_its_request(router: Router) -> None:
    endless(router)
    async with AsyncClient(router.address) as client:
        task = asyncio.create_task(client.generate("hi"))
        assert await asyncio.to_thread(router.started.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(router.ended.wait, 5)


async def test_closing_an_async_client_ends_its_streams(router: Router) -> None:
    endless(router)
    client = AsyncClient(router.address)
    stream = client.stream("hi")
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.1)
    await client.close()
    with pytest.raises(Cancelled, match="the client was closed"):
        await waiting


async def test_many_streams_of_one_async_client_run_side_by_side(router: Router) -> None:
    barrier = threading.Barrier(4)

    def script(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        barrier.wait(10)
        yield words(0, "a")
        yield inference_pb2.GenerateResponse(finish_reason=1)  # type: ignore[arg-type]

    router.scripts.extend([script] * 4)
    async with AsyncClient(router.address) as client:
        completions = await asyncio.gather(*(client.generate("hi") for _ in range(4)))
    assert [completion.text for completion in completions] == ["a"] * 4
