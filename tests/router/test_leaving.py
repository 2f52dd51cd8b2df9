"""Whichever side gives up, in whatever phase: within a second no worker holds anything for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment
from router.stub_workers import stub_answer

from lengthwise_wire.errors import InternalError

Arrange = Callable[[Deployment], Awaitable[None]]
Reached = Callable[[Deployment], Awaitable[None]]


async def _no_worker(deployment: Deployment) -> None:
    for worker in deployment.workers:
        worker.draining = True
    fleet = deployment.app._fleet
    await eventually(lambda: all(worker.condition == "draining" for worker in fleet.workers))


async def _waits_for_a_worker(deployment: Deployment) -> None:
    await eventually(lambda: deployment.in_flight == 1)


async def _reserve_hangs(deployment: Deployment) -> None:
    deployment.decode[0].reserve_hangs = True


async def _reserves(deployment: Deployment) -> None:
    await eventually(lambda: deployment.decode[0].held)


async def _prefill_hangs(deployment: Deployment) -> None:
    deployment.prefill[0].hangs = True


async def _prefills(deployment: Deployment) -> None:
    await eventually(lambda: deployment.prefill[0].running)


async def _transfer_hangs(deployment: Deployment) -> None:
    deployment.prefill[0].commits = False


async def _transfers(deployment: Deployment) -> None:
    prefill = deployment.prefill[0]
    await eventually(lambda: prefill.requests and not prefill.running)


async def _decode_is_slow(deployment: Deployment) -> None:
    deployment.decode[0].step_seconds = 0.02


async def _decodes(deployment: Deployment) -> None:
    await eventually(
        lambda: any(len(s.token_ids) > len(PROMPT) + 3 for s in deployment.decode[0].held.values())
    )


PHASES = [
    pytest.param(_no_worker, _waits_for_a_worker, id="no worker"),
    pytest.param(_reserve_hangs, _reserves, id="reserve"),
    pytest.param(_prefill_hangs, _prefills, id="prefill"),
    pytest.param(_transfer_hangs, _transfers, id="transfer"),
    pytest.param(_decode_is_slow, _decodes, id="decode"),
]

PATIENT: dict[str, Any] = {
    "no_worker_seconds": 5.0,
    "reserve_timeout_seconds": 5.0,
    "prefill_timeout_seconds": 5.0,
    "transfer_timeout_seconds": 5.0,
    "token_timeout_seconds": 5.0,
    "step_stall_seconds": 5.0,
}


DEADLINE_SECONDS = 0.6
"""Within it every phase is reached, on a busy machine too."""

FREED_SECONDS = 2.0
"""Twice the bound that workers and whole clusters are held to: here router, workers and clients
share one event loop."""


async def _all_is_given_back(deployment: Deployment) -> None:
    await deployment.nothing_is_held(FREED_SECONDS)
    await eventually(lambda: deployment.in_flight == 0, FREED_SECONDS)
    decode = deployment.decode[0]

    def all_are_released() -> bool:
        # A call may outlive its deadline for long enough to begin another attempt, whose Reserve
        # need not have come here.
        return {reserve.reservation for reserve in decode.reserves} <= set(decode.released)

    await eventually(all_are_released, FREED_SECONDS)
    for worker in deployment.app._fleet.workers:
        assert (worker.outstanding.requests, worker.outstanding.local_tokens) == (0, 0)
        assert worker.outstanding.unseen_requests == worker.outstanding.unseen_tokens == 0
        assert not worker.dependents


@pytest.mark.parametrize(("arrange", "reached"), PHASES)
async def test_a_client_that_cancels_frees_its_request(
    deploy: Deploy, arrange: Arrange, reached: Reached
) -> None:
    deployment = await deploy(**PATIENT)
    await arrange(deployment)
    call = deployment.call(max_tokens=400)
    reading = asyncio.create_task(_drain(call))
    await reached(deployment)
    call.cancel()
    await reading
    await _all_is_given_back(deployment)


@pytest.mark.slow
@pytest.mark.parametrize(("arrange", "reached"), PHASES)
async def test_a_deadline_frees_its_request(
    deploy: Deploy, arrange: Arrange, reached: Reached
) -> None:
    deployment = await deploy(**PATIENT)
    await arrange(deployment)
    began_at = time.monotonic()
    error = await deployment.refused(max_tokens=400, seconds=DEADLINE_SECONDS)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began_at < DEADLINE_SECONDS + FREED_SECONDS
    _was_reached(deployment, reached)
    await _all_is_given_back(deployment)


@pytest.mark.slow
@pytest.mark.parametrize(("arrange", "reached"), PHASES)
async def test_a_call_without_a_deadline_is_given_one(
    deploy: Deploy, arrange: Arrange, reached: Reached
) -> None:
    deployment = await deploy(**PATIENT, default_deadline_seconds=DEADLINE_SECONDS)
    await arrange(deployment)
    error = await deployment.refused(max_tokens=400, seconds=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await _all_is_given_back(deployment)


async def test_a_client_that_reads_nothing_and_leaves_frees_its_request(deploy: Deploy) -> None:
    deployment = await deploy()
    call = deployment.call(max_tokens=400)
    await _decodes(deployment)
    call.cancel()
    await _all_is_given_back(deployment)


async def test_a_release_that_fails_is_tried_again(deploy: Deploy) -> None:
    deployment = await deploy(**PATIENT)
    decode = deployment.decode[0]
    decode.release_error = InternalError("not now")
    await _decode_is_slow(deployment)
    call = deployment.call(max_tokens=400)
    await _decodes(deployment)
    call.cancel()
    await eventually(lambda: decode.failed_releases > 1)
    assert decode.held
    decode.release_error = None
    await _all_is_given_back(deployment)


async def test_releases_of_many_requests_share_calls(deploy: Deploy) -> None:
    deployment = await deploy(**PATIENT)
    await _decode_is_slow(deployment)
    calls = [deployment.call(max_tokens=400) for _ in range(50)]
    await eventually(lambda: len(deployment.decode[0].held) == 50)
    for call in calls:
        call.cancel()
    await _all_is_given_back(deployment)
    assert deployment.decode[0].release_calls < 25


async def test_cancelling_leaves_other_requests_alone(deploy: Deploy) -> None:
    deployment = await deploy()
    doomed = [deployment.call(max_tokens=400) for _ in range(5)]
    kept = asyncio.create_task(deployment.generate(max_tokens=100))
    await _decodes(deployment)
    for call in doomed:
        call.cancel()
    assert (await kept).token_ids == stub_answer(PROMPT, 100)
    await deployment.nothing_is_held()


def _was_reached(deployment: Deployment, reached: Reached) -> None:
    """The phase was reached before the deadline, as its traces at the workers show."""
    if reached in (_prefills, _transfers):
        assert deployment.prefill[0].requests
    elif reached is not _waits_for_a_worker:
        assert deployment.decode[0].reserves


async def _drain(call: Any) -> None:
    try:
        async for _ in call:
            pass
    except asyncio.CancelledError:
        return
