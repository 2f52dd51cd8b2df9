"""Prompts that decode workers compute themselves, between a real router and stub workers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, SLOW_LINK, Deploy, Deployment
from router.stub_workers import StubDecode, stub_answer

from lengthwise_wire.errors import InternalError, Overloaded
from lengthwise_wire.v1 import common_pb2, decode_pb2, inference_pb2

NUM_TOKENS = 60


async def deploy_local(deploy: Deploy, num_prefill: int = 1, num_decode: int = 1) -> Deployment:
    """Workers of which the decode workers are predicted to give the first token sooner."""
    deployment = await deploy(num_prefill, num_decode, local_prefill=True)
    for worker in deployment.workers:
        worker.status = dict(SLOW_LINK)
    fleet = deployment.served.workers
    await eventually(lambda: all(view.is_fitted for views in fleet.views() for view in views))
    return deployment


@pytest.mark.parametrize("num_tokens", [1, 2, NUM_TOKENS])
async def test_all_tokens_of_a_local_prompt_come_over_the_stream(
    deploy: Deploy, num_tokens: int
) -> None:
    deployment = await deploy_local(deploy)
    if num_tokens == 1:  # for one token no decode worker takes part, unless it must
        await deployment.prefill[0].stop()
        await deployment.ready(1)
    answer = await deployment.generate(max_tokens=num_tokens)
    assert answer.token_ids == stub_answer(PROMPT, num_tokens)
    assert answer.last.timings.retries == 0
    assert answer.last.timings.queue_seconds == 0.125
    assert answer.last.timings.prefill_seconds == 0.25
    (reserve,) = deployment.decode[0].reserves
    assert reserve.local
    assert not deployment.prefill[0].requests
    await deployment.nothing_is_held()
    assert deployment.decode[0].released == [], "the worker has ended the request itself"
    for worker in deployment.app._fleet.workers:
        assert (worker.outstanding.requests, worker.outstanding.local_tokens) == (0, 0)


async def test_local_placements_are_counted_and_explained(deploy: Deploy) -> None:
    deployment = await deploy(local_prefill=True, metrics_listen="127.0.0.1:0")
    for worker in deployment.workers:
        worker.status = dict(SLOW_LINK)
    fleet = deployment.served.workers
    await eventually(lambda: all(view.is_fitted for views in fleet.views() for view in views))
    deployment.decode[0].num_cached_tokens = 5
    answer = await deployment.generate(max_tokens=5, request_id="r1")
    assert answer.last.usage.cached_prompt_tokens == 5
    placements = "lengthwise_placements_total"
    assert await deployment.metric(placements, reason="local prefill") == 1
    explanation = await deployment.stub.Explain(inference_pb2.ExplainRequest(request_id="r1"))
    (attempt,) = explanation.attempts
    assert attempt.prefill_worker == ""
    assert attempt.decode_worker == deployment.decode[0].worker_id
    assert attempt.placement_reason.startswith("local prefill: ")
    assert (attempt.queue_seconds, attempt.prefill_seconds) == (0.125, 0.25)
    assert [bool(each.prefill_worker) for each in attempt.candidates] == [False, True]


async def test_logprobs_of_the_first_token_come_too(deploy: Deploy) -> None:
    deployment = await deploy_local(deploy)
    answer = await deployment.generate(max_tokens=4, top_logprobs=2)
    logprobs = [each for message in answer.messages for each in message.logprobs]
    assert len(logprobs) == 4


async def test_a_resumed_request_can_be_computed_locally(deploy: Deploy) -> None:
    deployment = await deploy_local(deploy)
    whole = stub_answer(PROMPT, 20)
    answer = await deployment.generate(
        max_tokens=20,
        sampling=common_pb2.SamplingParams(seed=5),
        resume=inference_pb2.Resume(token_ids=whole[:7]),
    )
    assert answer.token_ids == whole[7:]


async def test_without_prefill_workers_decode_workers_serve(deploy: Deploy) -> None:
    deployment = await deploy(local_prefill=True, metrics_listen="127.0.0.1:0")
    await deployment.prefill[0].stop()
    await deployment.ready(1)
    answer = await deployment.generate(max_tokens=NUM_TOKENS)
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert await deployment.metric("lengthwise_placements_total", reason="no prefill worker") == 1


async def test_a_prefill_worker_that_dies_is_replaced_by_the_decode_worker(deploy: Deploy) -> None:
    deployment = await deploy(local_prefill=True)
    prefill, decode = deployment.prefill[0], deployment.decode[0]
    prefill.hangs = True
    call = asyncio.create_task(deployment.generate(max_tokens=NUM_TOKENS))
    await eventually(lambda: prefill.requests)
    await prefill.stop()
    answer = await call
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    remote, local = decode.reserves
    assert (remote.local, local.local) == (False, True)
    assert local.reservation != remote.reservation
    await eventually(lambda: decode.released == [remote.reservation])
    await deployment.nothing_is_held()


Fault = Callable[[StubDecode], Coroutine[None, None, None]]


def _held(decode: StubDecode) -> Awaitable[None]:
    return eventually(lambda: decode.held)


async def _dies(decode: StubDecode) -> None:
    decode.local_hangs = True
    await _held(decode)
    await decode.stop()


async def _freezes(decode: StubDecode) -> None:
    decode.local_hangs = True
    await _held(decode)
    decode.freeze()


async def _forgets(decode: StubDecode) -> None:
    decode.local_hangs = True  # its steps go on, without this request


async def _fails(decode: StubDecode) -> None:
    decode.local_error = "a defect"


async def _refuses(decode: StubDecode) -> None:
    decode.reserve_error = Overloaded("the queue is full")


async def _errs(decode: StubDecode) -> None:
    decode.reserve_error = InternalError("a defect")


async def _loses_the_first_token(decode: StubDecode) -> None:
    decode.drop_index = 0


async def _dies_while_decoding(decode: StubDecode) -> None:
    await eventually(lambda: any(len(s.token_ids) > len(PROMPT) + 5 for s in decode.held.values()))
    await decode.stop()


async def _reports_impossible_times(decode: StubDecode) -> None:
    decode.local_seconds = float("nan")


async def _reports_negative_times(decode: StubDecode) -> None:
    decode.local_seconds = -1.0


async def _reports_more_than_the_prompt(decode: StubDecode) -> None:
    decode.num_cached_tokens = len(PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        pytest.param(_dies, "prefill", id="dies"),
        pytest.param(_freezes, "prefill", id="freezes"),
        pytest.param(_forgets, "prefill", id="forgets"),
        pytest.param(_fails, "", id="fails"),  # before or after it answers the reservation
        pytest.param(_refuses, "reserve", id="refuses"),
        pytest.param(_errs, "reserve", id="errs"),
        pytest.param(_loses_the_first_token, "prefill", id="loses the first token"),
        pytest.param(_dies_while_decoding, "decode", id="dies while decoding"),
        pytest.param(_reports_impossible_times, "", id="reports impossible times"),
        pytest.param(_reports_negative_times, "", id="reports negative times"),
        pytest.param(_reports_more_than_the_prompt, "reserve", id="reports more than there is"),
    ],
)
async def test_a_decode_worker_that_fails_alone_is_blamed_and_the_answer_the_same(
    deploy: Deploy, fault: Fault, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await deploy_local(deploy, 1, 2)
    decode = min(deployment.decode, key=lambda worker: worker.worker_id)
    (other,) = (worker for worker in deployment.decode if worker is not decode)
    failing = asyncio.create_task(fault(decode))
    await asyncio.sleep(0)
    began_at = time.monotonic()
    answer = await deployment.generate(max_tokens=NUM_TOKENS)
    assert time.monotonic() - began_at < 10
    await failing
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert answer.last.timings.retries == 1
    assert decode.reserves[0].local
    assert len(decode.reserves) == 1
    assert len(other.reserves) == 1
    failures = [record.message for record in caplog.records]
    assert any(f"in phase {phase}" in failure for failure in failures), failures
    decode.thaw()
    await deployment.nothing_is_held()


@pytest.mark.slow
async def test_times_of_a_prompt_that_was_not_to_be_computed_there_are_malformed(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await deploy(1, 2, step_seconds=0.01)
    call = asyncio.create_task(deployment.generate(max_tokens=NUM_TOKENS))
    await eventually(lambda: any(worker.held for worker in deployment.decode))
    (decode,) = (worker for worker in deployment.decode if worker.held)
    (number,) = decode.held
    false = decode_pb2.LocalPrefill(reservation=number, queue_seconds=1.0)
    decode.send(decode_pb2.TokenBatch(local_prefills=[false]))
    assert (await call).token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert any(", malformed:" in record.message for record in caplog.records)


@pytest.mark.slow
async def test_a_preempted_request_is_waited_for_anew(deploy: Deploy) -> None:
    deployment = await deploy(token_timeout_seconds=0.6)
    decode = deployment.decode[0]
    decode.last_index = 7
    call = asyncio.create_task(deployment.generate(max_tokens=20, request_id="r1"))
    await eventually(lambda: any(len(s.token_ids) > len(PROMPT) + 7 for s in decode.held.values()))
    (number,) = decode.held
    for _ in range(3):
        decode.send(decode_pb2.TokenBatch(preempted=[number, number + 1000]))
        await asyncio.sleep(0.35)
    decode.last_index = None
    answer = await call
    assert answer.token_ids == stub_answer(PROMPT, 20)
    assert answer.last.timings.retries == 0
    explanation = await deployment.stub.Explain(inference_pb2.ExplainRequest(request_id="r1"))
    assert explanation.end.preemptions == 3
