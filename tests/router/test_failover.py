"""Every way a worker can fail, in every phase of a request: the answer is the one that no failure
would have given, it comes in bounded time, and nothing is left behind at a worker that lives."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Answer, Deploy, Deployment
from router.stub_workers import StubDecode, StubPrefill, stub_answer

from lengthwise_wire.errors import (
    InternalError,
    InvalidRequest,
    NoWorkerAvailable,
    Overloaded,
    Stale,
    TransferFailed,
)

NUM_TOKENS = 60

Fault = Callable[[Deployment, StubPrefill, StubDecode], Coroutine[None, None, None]]


def _reserving(decode: StubDecode) -> Awaitable[None]:
    return eventually(lambda: decode.reserves)


def _prefilling(prefill: StubPrefill) -> Awaitable[None]:
    return eventually(lambda: prefill.requests)


def _decoding(decode: StubDecode) -> Awaitable[None]:
    return eventually(lambda: any(len(s.token_ids) > len(PROMPT) + 5 for s in decode.held.values()))


async def _reserve_hits_dying_worker(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.reserve_hangs = True
    await _reserving(decode)
    await decode.stop()


async def _reserve_hits_freezing_worker(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.reserve_hangs = True
    await _reserving(decode)
    decode.freeze()


async def _reserve_is_never_answered(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.reserve_hangs = True


async def _reserve_is_refused(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.reserve_error = Overloaded("the queue is full")


async def _reserve_fails(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.reserve_error = InternalError("a defect")


async def _prefill_worker_dies(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.hangs = True
    await _prefilling(prefill)
    await prefill.stop()


async def _prefill_worker_freezes(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.hangs = True
    await _prefilling(prefill)
    prefill.freeze()


async def _prefill_worker_is_stuck(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.hangs = True  # its status goes on, with a request running and no step


async def _prefill_fails(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.error = InternalError("a defect")


async def _prefill_is_refused(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.error = Overloaded("the queue is full")


async def _prefill_cannot_transfer(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.error = TransferFailed("the link broke")


async def _decode_worker_dies_during_prefill(
    _: Deployment, prefill: StubPrefill, decode: StubDecode
) -> None:
    prefill.hangs = True
    await _prefilling(prefill)
    await decode.stop()
    prefill.hangs = False


async def _reservation_fails_during_prefill(
    _: Deployment, prefill: StubPrefill, decode: StubDecode
) -> None:
    prefill.hangs = True
    await _prefilling(prefill)
    decode.fail_all("the link broke")


async def _transfer_never_ends(_: Deployment, prefill: StubPrefill, __: StubDecode) -> None:
    prefill.commits = False


async def _prefill_worker_dies_during_transfer(
    deployment: Deployment, prefill: StubPrefill, __: StubDecode
) -> None:
    prefill.commits = False
    await _prefilling(prefill)
    fleet = deployment.app._fleet  # which has the reply once it counts nothing there any more
    await eventually(
        lambda: not any(w.outstanding.requests for w in fleet.workers if w.role == "prefill")
    )
    await prefill.stop()


async def _decode_worker_dies_during_transfer(
    _: Deployment, prefill: StubPrefill, decode: StubDecode
) -> None:
    prefill.commits = False
    await _prefilling(prefill)
    await decode.stop()
    prefill.commits = True


async def _transfer_fails(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.end_error = (0, "checksum mismatch")


async def _decode_worker_dies(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    await _decoding(decode)
    await decode.stop()


async def _decode_worker_freezes(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    await _decoding(decode)
    decode.freeze()


async def _decode_worker_is_stuck(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.last_index = 7
    decode.steps_go_on = False


async def _decode_worker_forgets(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.last_index = 7  # its steps go on, without this request


async def _token_stream_breaks(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    await _decoding(decode)
    decode.break_streams()


async def _a_token_is_lost(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.drop_index = 9


async def _the_last_token_is_lost(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.drop_index = NUM_TOKENS - 1


async def _decode_worker_gives_up(_: Deployment, __: StubPrefill, decode: StubDecode) -> None:
    decode.end_error = (12, "the worker is going away")


FAULTS = [
    pytest.param(_reserve_hits_dying_worker, "reserve", id="reserve: decode worker dies"),
    pytest.param(_reserve_hits_freezing_worker, "reserve", id="reserve: decode worker freezes"),
    pytest.param(_reserve_is_never_answered, "reserve", id="reserve: no answer"),
    pytest.param(_reserve_is_refused, "reserve", id="reserve: overloaded"),
    pytest.param(_reserve_fails, "reserve", id="reserve: error"),
    pytest.param(_prefill_worker_dies, "prefill", id="prefill: worker dies"),
    pytest.param(_prefill_worker_freezes, "prefill", id="prefill: worker freezes"),
    pytest.param(_prefill_worker_is_stuck, "prefill", id="prefill: engine stuck"),
    pytest.param(_prefill_fails, "prefill", id="prefill: error"),
    pytest.param(_prefill_is_refused, "prefill", id="prefill: overloaded"),
    pytest.param(_prefill_cannot_transfer, "prefill", id="prefill: transfer failed"),
    pytest.param(_decode_worker_dies_during_prefill, "prefill", id="prefill: decode worker dies"),
    pytest.param(_reservation_fails_during_prefill, "prefill", id="prefill: reservation fails"),
    pytest.param(_transfer_never_ends, "transfer", id="transfer: never ends"),
    pytest.param(_prefill_worker_dies_during_transfer, "transfer", id="transfer: prefill dies"),
    pytest.param(_decode_worker_dies_during_transfer, None, id="transfer: decode dies"),
    pytest.param(_transfer_fails, None, id="transfer: fails"),
    pytest.param(_decode_worker_dies, "decode", id="decode: worker dies"),
    pytest.param(_decode_worker_freezes, "decode", id="decode: worker freezes"),
    pytest.param(_decode_worker_is_stuck, "decode", id="decode: engine stuck"),
    pytest.param(_decode_worker_forgets, "decode", id="decode: request forgotten"),
    pytest.param(_token_stream_breaks, "decode", id="decode: stream breaks"),
    pytest.param(_a_token_is_lost, "decode", id="decode: a token is lost"),
    pytest.param(_the_last_token_is_lost, "decode", id="decode: the last token is lost"),
    pytest.param(_decode_worker_gives_up, "decode", id="decode: worker gives up"),
]


def chosen_first(deployment: Deployment) -> tuple[StubPrefill, StubDecode]:
    """Equally loaded workers are chosen by their ids."""
    return (
        min(deployment.prefill, key=lambda worker: worker.worker_id),
        min(deployment.decode, key=lambda worker: worker.worker_id),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "phase"), FAULTS)
async def test_the_answer_is_the_same_whatever_fails(
    deploy: Deploy, fault: Fault, phase: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await deploy(2, 2)
    prefill, decode = chosen_first(deployment)
    failing = asyncio.create_task(fault(deployment, prefill, decode))
    await asyncio.sleep(0)
    began_at = time.monotonic()
    answer = await deployment.generate(max_tokens=NUM_TOKENS)
    assert time.monotonic() - began_at < 10
    await failing
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert answer.text == bytes(answer.token_ids).decode()
    assert answer.last.timings.retries >= 1
    if phase is not None:
        failures = [record.message for record in caplog.records]
        assert any(f"in phase {phase}" in failure for failure in failures), failures
    decode.thaw()
    await deployment.nothing_is_held()


async def test_a_dead_prefill_worker_costs_no_new_reservation(deploy: Deploy) -> None:
    deployment = await deploy(2, 1)
    prefill, decode = chosen_first(deployment)
    failing = asyncio.create_task(_prefill_worker_dies(deployment, prefill, decode))
    answer = await deployment.generate(max_tokens=5)
    await failing
    assert answer.token_ids == stub_answer(PROMPT, 5)
    assert [(r.reservation, r.epoch) for r in decode.reserves] == [
        (decode.reserves[0].reservation, 1),
        (decode.reserves[0].reservation, 2),
    ]
    (other,) = (worker for worker in deployment.prefill if worker is not prefill)
    assert [request.epoch for request in other.requests] == [2]


async def test_a_reservation_that_failed_unheard_is_made_anew(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    deployment.decode[0].reserve_error = Stale("reservation 1 has failed; use a new number")
    call = asyncio.create_task(deployment.generate(max_tokens=5))
    await eventually(lambda: deployment.decode[0].reserves)
    deployment.decode[0].reserve_error = None
    answer = await call
    assert answer.token_ids == stub_answer(PROMPT, 5)
    numbers = [reserve.reservation for reserve in deployment.decode[0].reserves]
    assert len(set(numbers)) == len(numbers) > 1


async def test_after_a_lost_decode_worker_the_request_goes_on_from_its_last_token(
    deploy: Deploy,
) -> None:
    deployment = await deploy(1, 2)
    prefill, decode = chosen_first(deployment)
    failing = asyncio.create_task(_decode_worker_dies(deployment, prefill, decode))
    await deployment.generate(max_tokens=NUM_TOKENS)
    await failing
    again = prefill.requests[1]
    num_generated = len(again.token_ids) - len(PROMPT)
    assert list(again.token_ids) == [*PROMPT, *stub_answer(PROMPT, num_generated)]
    assert again.num_prompt_tokens == len(PROMPT)
    (other,) = (worker for worker in deployment.decode if worker is not decode)
    (reserve,) = other.reserves
    assert list(reserve.token_ids) == list(again.token_ids)
    assert reserve.max_tokens == NUM_TOKENS - num_generated
    assert reserve.reservation != decode.reserves[0].reservation
    assert reserve.sampling == decode.reserves[0].sampling


async def test_a_worker_that_comes_back_is_used_again(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, no_worker_seconds=5.0)
    decode = deployment.decode[0]
    failing = asyncio.create_task(_decode_worker_dies(deployment, deployment.prefill[0], decode))
    call = asyncio.create_task(deployment.generate(max_tokens=NUM_TOKENS))
    await failing
    await decode.restart()
    answer = await call
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)


async def test_a_worker_stuck_for_a_while_is_used_again_once_it_steps(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, no_worker_seconds=5.0)
    prefill = deployment.prefill[0]
    prefill.hangs = True
    call = asyncio.create_task(deployment.generate(max_tokens=5))
    await eventually(lambda: prefill.cancelled == 1)
    prefill.hangs = False
    answer = await call
    assert answer.token_ids == stub_answer(PROMPT, 5)


async def test_what_a_worker_calls_invalid_is_not_tried_again(deploy: Deploy) -> None:
    deployment = await deploy(2, 2)
    for worker in deployment.prefill:
        worker.error = InvalidRequest("token_ids: got 9, expected 3")
    error = await deployment.refused(max_tokens=5)
    assert (error.code().name, error.details()) == (
        "INVALID_ARGUMENT",
        "token_ids: got 9, expected 3",
    )
    assert sum(len(worker.requests) for worker in deployment.prefill) == 1
    await deployment.nothing_is_held()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(NoWorkerAvailable("draining"), "UNAVAILABLE", id="unavailable"),
        pytest.param(InternalError("a defect"), "UNAVAILABLE", id="defect"),
    ],
)
async def test_attempts_are_limited(deploy: Deploy, error: Exception, code: str) -> None:
    deployment = await deploy(1, 1, max_attempts=3)
    deployment.prefill[0].error = error  # type: ignore[assignment]
    refused = await deployment.refused(max_tokens=5)
    assert refused.code().name == code
    assert len(deployment.prefill[0].requests) == 3
    await deployment.nothing_is_held()


async def test_a_busy_worker_is_asked_again_however_few_attempts_there_are(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, max_attempts=1, no_worker_seconds=20.0)
    decode = deployment.decode[0]
    decode.reserve_error = Overloaded("full")
    call = asyncio.create_task(deployment.generate(max_tokens=5))
    await eventually(lambda: len(decode.reserves) == 2)
    decode.reserve_error = None
    assert (await call).token_ids == stub_answer(PROMPT, 5)


async def test_a_worker_that_stays_busy_is_given_up(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    deployment.decode[0].reserve_error = Overloaded("full")
    refused = await deployment.refused(max_tokens=5)
    assert (refused.code().name, refused.details()) == ("RESOURCE_EXHAUSTED", "full")
    await deployment.nothing_is_held()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_without_workers_a_request_waits_and_then_is_refused(
    deploy: Deploy, role: str
) -> None:
    deployment = await deploy(1, 1)
    (lost,) = deployment.prefill if role == "prefill" else deployment.decode
    await lost.stop()
    await deployment.ready(1)
    began_at = time.monotonic()
    error = await deployment.refused(max_tokens=5)
    assert error.code().name == "UNAVAILABLE"
    assert f"no {role} worker" in error.details()
    assert 0.5 < time.monotonic() - began_at < 10


@pytest.mark.slow
async def test_many_requests_survive_the_loss_of_their_workers(deploy: Deploy) -> None:
    deployment = await deploy(2, 2)
    prefill, decode = chosen_first(deployment)
    prompts = [tuple(b"request %d" % number) for number in range(40)]

    async def ask(prompt: tuple[int, ...]) -> Answer:
        return await deployment.generate(prompt=prompt, max_tokens=100)

    calls = [asyncio.create_task(ask(prompt)) for prompt in prompts]
    await _decoding(decode)
    await decode.stop()
    await prefill.stop()
    for prompt, call in zip(prompts, calls, strict=True):
        assert (await call).token_ids == stub_answer(prompt, 100)
    await deployment.nothing_is_held()


async def test_a_prefill_worker_that_has_drained_is_not_missed_by_what_it_sent(
    deploy: Deploy,
) -> None:
    """Its KV is complete at the decode worker, or that worker reports that it is not."""
    deployment = await deploy(num_prefill=2)
    for prefill in deployment.prefill:
        prefill.commits = False
    asking = asyncio.create_task(deployment.generate(max_tokens=NUM_TOKENS))
    await eventually(lambda: any(prefill.requests for prefill in deployment.prefill))
    used = next(prefill for prefill in deployment.prefill if prefill.requests)
    used.draining = True
    fleet, decode = deployment.app._fleet, deployment.decode[0]
    await eventually(lambda: any(worker.condition == "draining" for worker in fleet.workers))
    await used.stop()
    await deployment.ready(2)
    decode.commit(used.requests[0], stub_answer(PROMPT, 1)[0])
    assert (await asking).token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert sum(len(prefill.requests) for prefill in deployment.prefill) == 1
