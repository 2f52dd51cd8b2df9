"""A request's life is explained as it was, while it goes on and after it, however it ended."""

import asyncio
from typing import Any

import grpc
import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment

from lengthwise_wire.errors import InternalError
from lengthwise_wire.v1 import inference_pb2


async def explained(
    deployment: Deployment, request_id: str = "r1"
) -> inference_pb2.ExplainResponse:
    message: inference_pb2.ExplainResponse = await deployment.stub.Explain(
        inference_pb2.ExplainRequest(request_id=request_id), timeout=5
    )
    return message


async def not_explained(deployment: Deployment, request_id: str) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await explained(deployment, request_id)
    return caught.value


async def test_a_request_that_went_well_is_explained_whole(deploy: Deploy) -> None:
    deployment = await deploy()
    answer = await deployment.generate(request_id="r1", max_tokens=5, priority=7)
    life = await explained(deployment)
    assert (life.request_id, life.model, life.priority) == ("r1", "stub", 7)
    assert (life.prompt_tokens, life.output_tokens, life.max_tokens) == (len(PROMPT), 5, 5)
    assert life.length_class == "short"
    assert life.admission_reason
    (attempt,) = life.attempts
    assert attempt.prefill_worker == deployment.prefill[0].worker_id
    assert attempt.decode_worker == deployment.decode[0].worker_id
    assert attempt.placement_reason
    assert (attempt.queue_seconds, attempt.prefill_seconds) == (0.25, 0.5)
    assert attempt.reserve_seconds > 0
    assert attempt.transfer_seconds >= 0
    assert not attempt.failure
    assert life.end.code == "OK"
    assert life.end.timings == answer.last.timings
    assert not life.end.preemptions


async def test_nothing_of_prompt_and_output_is_explained(deploy: Deploy) -> None:
    deployment = await deploy()
    answer = await deployment.generate(prompt="what no other client may read", max_tokens=9)
    life = await explained(deployment, answer.messages[0].request_id)
    shown = str(life).encode() + life.SerializeToString()
    assert b"no other" not in shown
    assert answer.text.encode() not in shown


async def test_one_token_needs_no_decode_worker(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.generate(request_id="r1", max_tokens=1)
    (attempt,) = (await explained(deployment)).attempts
    assert attempt.prefill_worker == deployment.prefill[0].worker_id
    assert not attempt.decode_worker


async def test_every_attempt_is_explained_and_why_it_failed(deploy: Deploy) -> None:
    deployment = await deploy(2, 1)
    for worker in deployment.prefill:
        worker.error = InternalError("a defect")
    call = deployment.call(request_id="r1", max_tokens=5)
    await eventually(lambda: all(worker.requests for worker in deployment.prefill))
    for worker in deployment.prefill:
        worker.error = None
    assert [message async for message in call]
    life = await explained(deployment)
    *failed, last = life.attempts
    assert {attempt.prefill_worker for attempt in failed} == {
        worker.worker_id for worker in deployment.prefill
    }
    assert all(attempt.failure.startswith("prefill: rpc_error: ") for attempt in failed)
    assert not last.failure
    assert life.end.timings.retries == len(failed)


async def test_a_request_is_explained_while_it_goes_on(deploy: Deploy) -> None:
    deployment = await deploy()
    deployment.prefill[0].hangs = True
    call = deployment.call(request_id="r1", max_tokens=5)
    await eventually(lambda: deployment.prefill[0].running)
    life = await explained(deployment)
    assert not life.HasField("end")
    assert len(life.attempts) == 1
    call.cancel()
    await eventually(lambda: deployment.in_flight == 0)
    assert (await explained(deployment)).end.code == "CANCELLED"


async def test_a_deadline_that_passed_is_explained(deploy: Deploy) -> None:
    deployment = await deploy()
    deployment.prefill[0].hangs = True
    with pytest.raises(grpc.aio.AioRpcError):
        await deployment.generate(request_id="r1", seconds=0.3, max_tokens=5)
    await eventually(lambda: deployment.in_flight == 0)
    end = (await explained(deployment)).end
    assert end.code == "DEADLINE_EXCEEDED"
    assert end.timings.total_seconds == pytest.approx(0.3, abs=0.2)


async def test_a_deadline_of_the_routers_own_is_explained(deploy: Deploy) -> None:
    deployment = await deploy(default_deadline_seconds=0.3)
    deployment.prefill[0].hangs = True
    with pytest.raises(grpc.aio.AioRpcError):
        await deployment.generate(request_id="r1", seconds=None, max_tokens=5)
    assert (await explained(deployment)).end.code == "DEADLINE_EXCEEDED"


async def test_a_prompt_that_was_refused_is_explained(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.refused(request_id="r1", prompt=[1] * 600)
    life = await explained(deployment)
    assert life.end.code == "INVALID_ARGUMENT"
    assert not life.attempts


async def test_an_error_is_explained_with_the_attempts_before_it(deploy: Deploy) -> None:
    deployment = await deploy(max_attempts=2)
    deployment.prefill[0].error = InternalError("a defect")
    await deployment.refused(request_id="r1", max_tokens=5)
    life = await explained(deployment)
    assert life.end.code == "UNAVAILABLE"
    assert life.end.timings.retries == 2
    assert [bool(attempt.failure) for attempt in life.attempts] == [True, True]


async def test_only_the_last_requests_are_remembered(deploy: Deploy) -> None:
    deployment = await deploy(explained_requests=2)
    for request_id in ("r1", "r2", "r2", "r3"):
        await deployment.generate(request_id=request_id, max_tokens=1)
    assert (await explained(deployment, "r2")).end.code == "OK"
    assert (await explained(deployment, "r3")).end.code == "OK"
    error = await not_explained(deployment, "r1")
    assert error.code().name == "NOT_FOUND"
    assert error.trailing_metadata()["lengthwise-error"] == "RequestNotFound"
    assert "got 'r1', expected one of the last 2 requests of this router" in error.details()


@pytest.mark.parametrize("request_id", ["", "x" * 129], ids=["none", "too long"])
async def test_an_id_that_cannot_be_one_is_an_invalid_argument(
    deploy: Deploy, request_id: str
) -> None:
    error = await not_explained(await deploy(), request_id)
    assert error.code().name == "INVALID_ARGUMENT"
    assert f"request_id: got {len(request_id)} characters, expected 1 to 128" in error.details()


async def test_many_may_ask_while_requests_go_on(deploy: Deploy) -> None:
    deployment = await deploy()
    calls = [deployment.generate(request_id=f"r{index}", max_tokens=30) for index in range(8)]
    answers = asyncio.gather(*calls)
    while not answers.done():
        await asyncio.gather(
            *(explained(deployment, f"r{index}") for index in range(8)), return_exceptions=True
        )
    assert all(len(answer.token_ids) == 30 for answer in await answers)
