"""A prefill worker comes while prompts wait at another one."""

import asyncio

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy
from router.stub_workers import stub_answer

from lengthwise_wire.v1 import worker_pb2


@pytest.mark.parametrize(("tokens", "leaving"), [(100, 0), (50_000, 4)])
async def test_prompts_that_wait_come_to_a_new_prefill_worker(
    deploy: Deploy, tokens: int, leaving: int
) -> None:
    deployment = await deploy(2, prefill_timeout_seconds=10.0, step_stall_seconds=10.0)
    busy, late = deployment.prefill
    late.status["transfer_down"] = True  # its transfer process is still to come
    busy.status["queues"] = [
        worker_pb2.QueueStatus(length_class="short", requests=20, tokens=tokens)
    ]
    busy.delay_seconds = 0.6
    await asyncio.sleep(0.2)  # both are known
    asked = [asyncio.create_task(deployment.generate(max_tokens=5)) for _ in range(4)]
    await eventually(lambda: len(busy.requests) == len(asked))
    late.status["transfer_down"] = False
    for answer in await asyncio.gather(*asked):
        assert answer.token_ids == stub_answer(PROMPT, 5)
        assert answer.last.timings.retries == 0
    assert len(late.requests) == busy.cancelled == leaving
    assert len({each.reservation for each in deployment.decode[0].reserves}) == 4
    await deployment.nothing_is_held()
