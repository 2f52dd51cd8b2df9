"""Prefill workers that other routers have crowded since their last status."""

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment
from router.stub_workers import stub_answer


async def _with_routers(deployment: Deployment, count: int) -> None:
    """As many share the workers, as these tell."""
    for worker in deployment.workers:
        worker.status["routers"] = count
    await eventually(lambda: deployment.served.workers.other_routers == count - 1)


@pytest.mark.parametrize("crowded", [0, 1, 2])
async def test_a_crowded_worker_passes_a_request_on_and_nothing_has_gone_wrong(
    deploy: Deploy, crowded: int
) -> None:
    deployment = await deploy(2, metrics_listen="127.0.0.1:0")
    await _with_routers(deployment, 8)
    for prefill in deployment.prefill[:crowded]:
        prefill.tokens_ahead = 10_000
    for _ in range(8):
        answer = await deployment.generate(max_tokens=5)
        assert answer.token_ids == stub_answer(PROMPT, 5)
        assert answer.last.timings.retries == 0
    refusals = sum(len(prefill.requests) for prefill in deployment.prefill) - 8
    assert refusals >= (8 if crowded == 2 else 0)
    assert (
        await deployment.metric("lengthwise_retries_total", phase="prefill", reason="crowded")
        == refusals
    )
    assert len({each.reservation for each in deployment.decode[0].reserves}) == 8
    await deployment.nothing_is_held()


async def test_a_router_that_is_alone_asks_no_worker_to_refuse(deploy: Deploy) -> None:
    deployment = await deploy(2)
    await _with_routers(deployment, 1)
    await deployment.generate(max_tokens=5)
    (request,) = (each for prefill in deployment.prefill for each in prefill.requests)
    assert not request.HasField("most_tokens_ahead")


async def test_a_worker_of_an_older_version_queues_it(deploy: Deploy) -> None:
    deployment = await deploy()
    await _with_routers(deployment, 8)
    assert (await deployment.generate(max_tokens=5)).token_ids == stub_answer(PROMPT, 5)
