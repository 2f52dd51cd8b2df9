"""A router that is lost in the middle of a stream costs the caller nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client.callers import Caller
from client.scripted_router import (
    SEED,
    Responses,
    Router,
    fail,
    first,
    last,
    serving,
    words,
)

from lengthwise import Client, NoWorkerAvailable, Retry, Timeout
from lengthwise_wire.v1 import inference_pb2


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_a_stream_goes_on_at_the_next_token_elsewhere(
    routers: tuple[Router, Router], caller: Caller
) -> None:
    def lost(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield first(request)
        yield words(0, "a", "b")
        fail(context, NoWorkerAvailable("going down"))

    routers[0].scripts.append(lost)
    routers[1].scripts.append(lambda request, _: iter([first(request), words(2, "c"), last(3)]))
    chunks = caller.stream([router.address for router in routers], "hi")
    assert text_of(chunks) == "abc"
    assert [token.index for chunk in chunks for token in chunk.tokens] == [0, 1, 2]
    before, after = routers[0].requests[0], routers[1].requests[0]
    assert list(after.resume.token_ids) == [1000, 1001]
    assert after.sampling.seed == SEED
    assert after.request_id == before.request_id
    assert after.prompt == before.prompt


def test_text_that_lagged_behind_its_tokens_comes_with_the_next(
    router: Router, caller: Caller
) -> None:
    def lost(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield inference_pb2.GenerateResponse(index=0, token_ids=[1000, 1001], text="a")
        fail(context, NoWorkerAvailable("going down"))

    late = inference_pb2.GenerateResponse(index=2, token_ids=[1002], text="bc")
    router.scripts.append(lost)
    router.scripts.append(lambda request, _: iter([late, last(3)]))
    assert text_of(caller.stream(router.address, "hi")) == "abc"


def test_what_was_received_before_is_dropped(router: Router, caller: Caller) -> None:
    def lost(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "a", "b")
        fail(context, NoWorkerAvailable("going down"))

    router.scripts.append(lost)
    router.scripts.append(
        lambda request, _: iter([words(0, "a"), words(1, "b"), words(2, "c"), last(3)])
    )
    chunks = caller.stream(router.address, "hi")
    assert text_of(chunks) == "abc"
    assert [token.index for chunk in chunks for token in chunk.tokens] == [0, 1, 2]


def test_a_silent_router_is_left(routers: tuple[Router, Router], caller: Caller) -> None:
    def silent(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "a")
        routers[0].freeze()

    routers[0].scripts.append(silent)
    routers[1].scripts.append(lambda request, _: iter([words(1, "b"), last(2)]))
    started = time.monotonic()
    patience = Timeout(silence=0.3)
    chunks = caller.stream([router.address for router in routers], "hi", timeout=patience)
    assert text_of(chunks) == "ab"
    assert 0.3 <= time.monotonic() - started < 15.0
    assert routers[0].ended.wait(5), "the silent call was not cancelled"


def test_a_router_that_never_answers_is_left(
    routers: tuple[Router, Router], caller: Caller
) -> None:
    def mute(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        routers[0].freeze()
        yield from ()

    routers[0].scripts.append(mute)
    routers[1].scripts.append(lambda request, _: iter([words(0, "a"), last(1)]))
    patience = Timeout(connect=0.3)
    chunks = caller.stream([router.address for router in routers], "hi", timeout=patience)
    assert text_of(chunks) == "a"


@pytest.mark.slow
def test_signs_of_life_keep_a_stream_that_waits(router: Router, caller: Caller) -> None:
    def queued(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        for _ in range(8):
            yield inference_pb2.GenerateResponse()
            router.released.wait(0.1)
        yield words(0, "a")
        yield last(1)

    router.scripts.append(queued)
    patience = Timeout(connect=0.4, silence=0.4)
    assert text_of(caller.stream(router.address, "hi", timeout=patience)) == "a"
    assert len(router.requests) == 1


@pytest.mark.slow
def test_a_stream_waits_for_its_only_router_to_come_back(caller: Caller) -> None:
    router, reborn = Router(), Router()

    def lost(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "a")
        server.stop(None)
        router.freeze()

    router.scripts.append(lost)
    reborn.scripts.append(lambda request, _: iter([words(1, "b"), last(2)]))
    with serving(router) as server:
        port = int(router.address.rpartition(":")[2])
        with back_after(0.7, reborn, port):
            assert text_of(caller.stream(router.address, "hi")) == "ab"
    assert list(reborn.requests[0].resume.token_ids) == [1000]


@pytest.mark.slow
def test_a_request_waits_for_its_only_router_to_come(caller: Caller) -> None:
    earlier, router = Router(), Router()
    router.scripts.append(lambda request, _: iter([words(0, "a"), last(1)]))
    with serving(earlier):
        port = int(earlier.address.rpartition(":")[2])
    with back_after(2.5, router, port):
        assert text_of(caller.stream(f"127.0.0.1:{port}", "hi")) == "a"


@contextmanager
def back_after(seconds: float, router: Router, port: int) -> Iterator[None]:
    """Serves on a port a while from now, from a thread that ends with the block."""
    done = threading.Event()

    def run() -> None:
        done.wait(seconds)
        with serving(router, port):
            done.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


class RouterProcess:
    """tests/client/router_process.py, running."""

    def __init__(self, port: int = 0) -> None:
        script = Path(__file__).with_name("router_process.py")
        self.popen = subprocess.Popen(
            [sys.executable, str(script), str(port), "0.01"], stdout=subprocess.PIPE
        )
        assert self.popen.stdout is not None
        self.address = f"127.0.0.1:{int(self.popen.stdout.readline())}"

    def __enter__(self) -> "RouterProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "patience"),
    [
        pytest.param(signal.SIGKILL, Timeout(total=20), id="killed"),
        pytest.param(signal.SIGSTOP, Timeout(total=20, silence=0.5, connect=0.5), id="frozen"),
    ],
)
def test_a_completion_is_the_same_whatever_happens_to_routers(
    signum: signal.Signals, patience: Timeout
) -> None:
    with RouterProcess() as one, RouterProcess() as other:
        with Client(one.address) as client:
            undisturbed = client.generate("hi", max_tokens=60)
        with Client([one.address, other.address]) as client:
            chunks = []
            for chunk in client.stream("hi", max_tokens=60, timeout=patience):
                chunks.append(chunk)
                if len(chunks) == 20:
                    one.popen.send_signal(signum)
    assert text_of(chunks) == undisturbed.text
    assert tuple(token for chunk in chunks for token in chunk.tokens) == undisturbed.tokens
    assert chunks[-1].finish_reason == "length"


@pytest.mark.slow
def test_a_frozen_router_holds_up_no_unary_call() -> None:
    with (
        RouterProcess() as one,
        RouterProcess() as other,
        Client([one.address, other.address]) as client,
    ):
        assert client.tokenize("hi") == [1, 2]
        one.popen.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, one.popen.pid, os.WSTOPPED | os.WNOWAIT)
        started = time.monotonic()
        assert client.tokenize("hi") == [1, 2]
        assert 1.0 < time.monotonic() - started < 8.0, "answered by the wrong one, or late"


def test_giving_up_on_a_lost_stream_is_bounded(caller: Caller) -> None:
    router = Router()

    def lost(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "a")
        server.stop(None)
        router.freeze()

    router.scripts.append(lost)
    started = time.monotonic()
    with serving(router) as server, pytest.raises(NoWorkerAvailable):
        caller.stream(router.address, "hi", retry=Retry(attempts=3, max_delay=0.1))
    assert time.monotonic() - started < 5.0
