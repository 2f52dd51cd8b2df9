"""The seam for front ends: requests are served whatever brings them, here no transport at all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import eventually
from prometheus_client import CollectorRegistry
from router.deployment import PROMPT, QUICK, Running, request
from router.stub_workers import StubDecode, StubPrefill, stub_answer

from lengthwise_router.app import RouterApplication
from lengthwise_router.config import DiscoveryConfig, RouterConfig
from lengthwise_router.serving.service import InferenceService
from lengthwise_wire.errors import DeadlineExceeded
from lengthwise_wire.v1 import common_pb2, inference_pb2


class Silence:
    """Keepalives, counted."""

    def __init__(self) -> None:
        self.keepalives = 0

    async def keepalive(self) -> None:
        self.keepalives += 1


@pytest.fixture
async def workers(running: Running) -> tuple[StubPrefill, StubDecode]:
    decode = StubDecode()
    prefill = StubPrefill([decode])
    await running(prefill, decode)
    return prefill, decode


@pytest.fixture
async def service(
    stub_checkpoint: Path, workers: Sequence[StubPrefill | StubDecode]
) -> AsyncIterator[InferenceService]:
    """Of a router that listens nowhere."""
    options: dict[str, Any] = {**QUICK, "step_stall_seconds": 5.0, "keepalive_seconds": 0.1}
    endpoints = tuple(worker.address for worker in workers)
    config = RouterConfig(
        model=str(stub_checkpoint), discovery=DiscoveryConfig(endpoints=endpoints), **options
    )
    async with _joined(config) as app:
        await eventually(lambda: sum(each.is_usable for each in app._fleet.workers) == 2)
        yield app._service


@asynccontextmanager
async def _joined(config: RouterConfig) -> AsyncIterator[RouterApplication]:
    app = RouterApplication(config)
    await app._join(CollectorRegistry())
    app._run()
    try:
        yield app
    finally:
        for task in app._tasks:
            task.cancel()
        await asyncio.gather(*app._tasks, return_exceptions=True)
        await app._fleet.close()
        for model in app._models:
            await model.encoder.close()


def ended(service: InferenceService, request_id: str = "r1") -> str:
    """The code that a request ended with; empty while it goes on."""
    message = inference_pb2.ExplainRequest(request_id=request_id)
    return service.explain(message).end.code


async def test_responses_come_in_order_and_the_last_is_marked(
    service: InferenceService,
) -> None:
    message = request(request_id="r1", max_tokens=20)
    responses = service.generate(message, deadline_seconds=10, keepalive=Silence().keepalive)
    found = [response async for response in responses]
    token_ids = [token_id for response in found for token_id in response.token_ids]
    assert token_ids == stub_answer(PROMPT, 20)
    assert [bool(response.finish_reason) for response in found] == [False] * (len(found) - 1) + [
        True
    ]
    assert found[-1].finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert ended(service) == "OK"


@pytest.mark.slow
async def test_a_caller_that_gets_nothing_for_long_is_sent_keepalives(
    service: InferenceService, workers: tuple[StubPrefill, StubDecode]
) -> None:
    workers[0].delay_seconds = 0.45
    silence = Silence()
    message = request(max_tokens=3)
    async for response in service.generate(
        message, deadline_seconds=10, keepalive=silence.keepalive
    ):
        assert response.token_ids
    assert silence.keepalives in (2, 3, 4)


async def test_closing_the_generator_gives_everything_back(
    service: InferenceService, workers: tuple[StubPrefill, StubDecode]
) -> None:
    _, decode = workers
    decode.step_seconds = 0.02
    message = request(request_id="r1", max_tokens=400)
    responses = service.generate(message, deadline_seconds=10, keepalive=Silence().keepalive)
    async with aclosing(responses):
        async for response in responses:
            if response.index > 3:
                break
    assert ended(service) == "CANCELLED"
    await eventually(lambda: not decode.held)


async def test_cancelling_the_task_that_reads_gives_everything_back(
    service: InferenceService, workers: tuple[StubPrefill, StubDecode]
) -> None:
    prefill, decode = workers
    prefill.hangs = True
    message = request(request_id="r1", max_tokens=400)
    responses = service.generate(message, deadline_seconds=10, keepalive=Silence().keepalive)
    reading = asyncio.create_task(anext(responses))
    await eventually(lambda: prefill.running)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert ended(service) == "CANCELLED"
    await eventually(lambda: not decode.held and not prefill.running)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_the_deadline_is_the_services_own(
    service: InferenceService, workers: tuple[StubPrefill, StubDecode], phase: str
) -> None:
    prefill, decode = workers
    if phase == "prefill":
        prefill.hangs = True
    else:
        decode.step_seconds = 0.02
    message = request(request_id="r1", max_tokens=400)
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0.4 s passed"):
        async for _ in service.generate(
            message, deadline_seconds=0.4, keepalive=Silence().keepalive
        ):
            pass
    assert ended(service) == "DEADLINE_EXCEEDED"
    await eventually(lambda: not decode.held and not prefill.running)


async def test_a_caller_that_takes_nothing_until_its_deadline_has_exceeded_it(
    service: InferenceService,
) -> None:
    message = request(request_id="r1", max_tokens=400)
    responses = service.generate(message, deadline_seconds=0.3, keepalive=Silence().keepalive)
    async with aclosing(responses):
        await anext(responses)
        await asyncio.sleep(0.4)
    assert ended(service) == "DEADLINE_EXCEEDED"
