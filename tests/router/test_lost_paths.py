"""Workers whose transfer process is down, and links over which no KV comes: requests take the paths
that are left, and wait where none is."""

import asyncio
from typing import Any

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment
from router.stub_workers import StubPrefill, StubWorker, stub_answer

from lengthwise_wire.errors import TransferFailed

NUM_TOKENS = 12
DOWN = {"transfer_down": True}

PATIENT: dict[str, Any] = {
    "heartbeat_timeout_seconds": 9.0,
    "step_stall_seconds": 9.0,
    "no_worker_seconds": 20.0,
}
"""Of a machine so busy that stubs seem lost; what is not about losses does not see any."""


async def seen(deployment: Deployment, worker: StubWorker, *, down: bool) -> None:
    """Returns when the router knows whether the worker's transfer process is down."""

    def is_seen() -> bool:
        fleet = deployment.app._fleet
        return any(
            each.worker_id == worker.worker_id and each.offers == (True, not down)
            for each in fleet.workers
        )

    worker.status = DOWN if down else {}
    await eventually(is_seen)


async def test_a_decode_worker_without_transfer_process_computes_prompts_itself(
    deploy: Deploy,
) -> None:
    deployment = await deploy(local_prefill=True, **PATIENT)
    decode = deployment.decode[0]
    await seen(deployment, decode, down=True)
    answer = await deployment.generate(max_tokens=NUM_TOKENS)
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert answer.last.timings.retries == 0
    assert [reserve.local for reserve in decode.reserves] == [True]


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_what_has_to_be_transferred_goes_to_workers_that_can(
    deploy: Deploy, role: str
) -> None:
    deployment = await deploy(2, 2, **PATIENT)
    workers: list[StubWorker] = [*getattr(deployment, role)]
    await seen(deployment, workers[0], down=True)
    for _ in range(5):
        answer = await deployment.generate(max_tokens=NUM_TOKENS)
        assert answer.last.timings.retries == 0
    asked = [worker.requests for worker in deployment.prefill]
    reserved = [worker.reserves for worker in deployment.decode]
    unused, used = asked if role == "prefill" else reserved
    assert not unused
    assert len(used) == 5


async def test_one_token_needs_no_transfer(deploy: Deploy) -> None:
    deployment = await deploy(**PATIENT)
    await seen(deployment, deployment.prefill[0], down=True)
    answer = await deployment.generate(max_tokens=1)
    assert answer.token_ids == stub_answer(PROMPT, 1)


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_request_waits_for_the_only_transfer_process_and_goes_on_when_it_is_back(
    deploy: Deploy, role: str
) -> None:
    deployment = await deploy(**PATIENT)
    worker: StubWorker = getattr(deployment, role)[0]
    await seen(deployment, worker, down=True)
    call = asyncio.create_task(deployment.generate(max_tokens=NUM_TOKENS, seconds=30.0))
    await eventually(lambda: deployment.served.workers._notified)
    assert not call.done()
    worker.status = {}
    answer = await call
    assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    assert answer.last.timings.retries == 0
    assert not deployment.served.workers._notified


async def test_a_link_that_is_cut_costs_neither_of_its_workers_their_other_requests(
    deploy: Deploy,
) -> None:
    """Both links of one decode worker: the other one serves, whichever prefill worker computes."""

    deployment = await deploy(2, 2, **PATIENT)
    cut = min(deployment.decode, key=lambda worker: worker.worker_id)

    def cutting(prefill: StubPrefill) -> None:
        compute = prefill._compute

        async def computing() -> None:
            if prefill.requests[-1].destination.worker_id == cut.worker_id:
                raise TransferFailed("no KV comes across")
            await compute()

        prefill._compute = computing  # type: ignore[method-assign]

    for prefill in deployment.prefill:
        cutting(prefill)
    for _ in range(4):
        answer = await deployment.generate(max_tokens=NUM_TOKENS)
        assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
        assert answer.last.timings.retries == 1
    await deployment.nothing_is_held()
