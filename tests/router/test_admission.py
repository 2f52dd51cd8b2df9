"""Requests beyond the limit wait their turn, by priority and by what their tenants have had; they
are refused when nothing else is left, and leave without a trace."""

import asyncio
from typing import Any

import grpc
import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Answer, Deploy, Deployment

from lengthwise_policy.objectives import Objectives
from lengthwise_wire.v1 import inference_pb2

ONE_BY_ONE: dict[str, Any] = {"max_requests_in_flight": 1}


def num_waiting(deployment: Deployment) -> int:
    return deployment.served.gate.num_waiting


async def occupied(deployment: Deployment) -> Any:
    """A call that holds the only place until it is cancelled."""
    worker = deployment.prefill[0]
    worker.hangs = True
    call = deployment.call(request_id="occupant", max_tokens=3, tenant="occupant")
    await eventually(lambda: worker.running)
    worker.hangs = False
    return call


async def lined_up(deployment: Deployment, **fields: Any) -> asyncio.Task[Answer]:
    """A request that has got its place in the line."""
    before = num_waiting(deployment)
    task = asyncio.create_task(deployment.generate(**{"max_tokens": 3, **fields}))
    await eventually(lambda: num_waiting(deployment) == before + 1)
    return task


def order(deployment: Deployment) -> list[str]:
    """Names of requests in the order they came to the prefill worker, without the occupant."""
    return [request.request_id for request in deployment.prefill[0].requests[1:]]


async def explained(deployment: Deployment, request_id: str) -> inference_pb2.ExplainResponse:
    message: inference_pb2.ExplainResponse = await deployment.stub.Explain(
        inference_pb2.ExplainRequest(request_id=request_id), timeout=5
    )
    return message


async def error_of(task: asyncio.Task[Answer]) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await task
    return caught.value


async def test_a_request_beyond_the_limit_waits_and_is_served(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE, metrics_listen="127.0.0.1:0")
    call = await occupied(deployment)
    task = await lined_up(deployment, request_id="r1")
    assert await deployment.metric("lengthwise_requests_waiting") == 1
    life = await explained(deployment, "r1")
    assert "the limit is 1" in life.admission_reason
    assert not life.HasField("end")
    call.cancel()
    assert len((await task).token_ids) == 3
    life = await explained(deployment, "r1")
    assert life.admission_seconds > 0
    assert life.admission_reason.startswith("waited ")
    assert life.end.timings.time_to_first_token_seconds > life.admission_seconds
    assert deployment.in_flight == 0
    assert await deployment.metric("lengthwise_requests_waiting") == 0
    assert await deployment.metric("lengthwise_admission_seconds_count") == 2


async def test_a_waiting_clients_stream_is_kept_alive(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE, keepalive_seconds=0.1)
    call = await occupied(deployment)
    waiting = deployment.call(max_tokens=3)
    for _ in range(3):
        message = await asyncio.wait_for(waiting.read(), 10)
        assert not message.ByteSize()
    call.cancel()
    while not message.finish_reason:
        message = await asyncio.wait_for(waiting.read(), 10)


async def test_higher_priorities_go_first(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE)
    call = await occupied(deployment)
    tasks = [
        await lined_up(deployment, request_id=f"{priority}", priority=priority)
        for priority in (0, -100, 100, 5)
    ]
    call.cancel()
    await asyncio.gather(*tasks)
    assert order(deployment) == ["100", "5", "0", "-100"]


async def test_two_tenants_take_turns_however_many_requests_one_has(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE)
    call = await occupied(deployment)
    tasks = [
        await lined_up(deployment, request_id=request_id, tenant=request_id[0])
        for request_id in ("a1", "a2", "a3", "a4", "b1", "b2")
    ]
    call.cancel()
    await asyncio.gather(*tasks)
    assert order(deployment) == ["a1", "b1", "a2", "b2", "a3", "a4"]


async def test_what_was_generated_counts_twice(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE)
    call = await occupied(deployment)
    # Each of a's costs 16 + 2 x 20, each of b's 16 + 2 x 2: three of b's pass before a's second.
    tasks = [
        await lined_up(deployment, request_id=request_id, tenant=request_id[0], max_tokens=number)
        for request_id, number in (("a1", 20), ("a2", 20), ("b1", 2), ("b2", 2), ("b3", 2))
    ]
    assert len(PROMPT) == 16
    call.cancel()
    await asyncio.gather(*tasks)
    assert order(deployment) == ["a1", "b1", "b2", "b3", "a2"]


async def test_a_full_queue_refuses_and_names_when_to_come_back(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE, max_queued=1, metrics_listen="127.0.0.1:0")
    call = await occupied(deployment)
    task = await lined_up(deployment)
    error = await deployment.refused(request_id="r1", max_tokens=3)
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert float(error.trailing_metadata()["lengthwise-retry-after"]) > 0
    assert "1 wait, the limit is 1" in error.details()
    assert await deployment.metric("lengthwise_refusals_total", reason="queue full") == 1
    life = await explained(deployment, "r1")
    assert life.end.code == "RESOURCE_EXHAUSTED"
    assert life.admission_reason == error.details()
    call.cancel()
    assert len((await task).token_ids) == 3


async def test_a_more_urgent_request_takes_the_last_place_in_the_line(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE, max_queued=1)
    call = await occupied(deployment)
    displaced = await lined_up(deployment, request_id="displaced")
    urgent = asyncio.create_task(deployment.generate(request_id="urgent", max_tokens=3, priority=1))
    error = await error_of(displaced)
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert float(error.trailing_metadata()["lengthwise-retry-after"]) > 0
    assert (await explained(deployment, "displaced")).end.code == "RESOURCE_EXHAUSTED"
    call.cancel()
    assert len((await urgent).token_ids) == 3
    assert order(deployment) == ["urgent"]


async def test_cancelling_while_waiting_frees_the_place(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE, max_queued=1)
    call = await occupied(deployment)
    waiting = deployment.call(request_id="gone", max_tokens=3)
    await eventually(lambda: num_waiting(deployment) == 1)
    waiting.cancel()
    await eventually(lambda: num_waiting(deployment) == 0)
    task = await lined_up(deployment, request_id="next")
    call.cancel()
    assert len((await task).token_ids) == 3
    assert order(deployment) == ["next"]
    assert deployment.in_flight == 0
    life = await explained(deployment, "gone")
    assert life.end.code == "CANCELLED"
    assert life.admission_seconds > 0
    assert not life.attempts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "config"),
    [
        pytest.param(0.4, {}, id="the call's own"),
        pytest.param(None, {"default_deadline_seconds": 0.4}, id="the router's"),
    ],
)
async def test_a_deadline_holds_while_waiting(
    deploy: Deploy, seconds: float | None, config: dict[str, Any]
) -> None:
    deployment = await deploy(**ONE_BY_ONE, **config)
    call = await occupied(deployment)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await deployment.generate(request_id="late", seconds=seconds, max_tokens=3)
    assert caught.value.code().name == "DEADLINE_EXCEEDED"
    await eventually(lambda: num_waiting(deployment) == 0)
    assert (await explained(deployment, "late")).end.code == "DEADLINE_EXCEEDED"
    call.cancel()
    await eventually(lambda: deployment.in_flight == 0)


async def test_every_place_is_given_on_however_the_request_ends(deploy: Deploy) -> None:
    """Eight requests in a line; those with odd numbers leave while they wait."""
    deployment = await deploy(**ONE_BY_ONE)
    call = await occupied(deployment)
    tasks = [await lined_up(deployment, request_id=f"r{index}") for index in range(8)]
    for task in tasks[1::2]:
        task.cancel()
    await asyncio.gather(*tasks[1::2], return_exceptions=True)
    await eventually(lambda: num_waiting(deployment) == 4)
    call.cancel()
    await asyncio.gather(*tasks[::2])
    assert order(deployment) == ["r0", "r2", "r4", "r6"]
    assert deployment.in_flight == 0


async def test_a_draining_router_serves_those_that_wait(deploy: Deploy) -> None:
    deployment = await deploy(**ONE_BY_ONE)
    call = await occupied(deployment)
    task = await lined_up(deployment)
    draining = asyncio.create_task(deployment.app.drain())
    await eventually(lambda: deployment.app._service.draining)
    call.cancel()
    assert len((await task).token_ids) == 3
    await draining


async def test_a_request_that_would_come_far_too_late_is_refused_at_once(deploy: Deploy) -> None:
    deployment = await deploy(
        strategy="predicted_ttft",
        shed_factor=1.0,
        objectives=Objectives(ttft_long_seconds=0.001),
        metrics_listen="127.0.0.1:0",
    )
    error = await deployment.refused(request_id="r1", prompt=[65] * 400, max_tokens=3)
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert "more than 1 times the objective of 0.001 s" in error.details()
    assert float(error.trailing_metadata()["lengthwise-retry-after"]) > 0
    assert await deployment.metric("lengthwise_refusals_total", reason="latency objective") == 1
    assert not (await explained(deployment, "r1")).attempts
    assert len((await deployment.generate(max_tokens=3)).token_ids) == 3, "the class is short"
