"""Workers that other routers have crowded since their last status."""

import grpc
import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, SLOW_LINK, Deploy, Deployment
from router.stub_workers import stub_answer

from lengthwise_policy.placement.outstanding import Placed
from lengthwise_router.workers import worker as workers
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.v1 import worker_pb2


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
    assert refusals or crowded < 2  # one that has told its queue may not be asked again
    assert (
        await deployment.metric("lengthwise_retries_total", phase="prefill", reason="crowded")
        == refusals
    )
    assert len(deployment.decode[0].reserves) == 8  # what is held is not asked for again
    await deployment.nothing_is_held()


async def test_what_a_worker_has_told_counts_until_its_next_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if no time passed, in which the queue is computed.
    monkeypatch.setattr(workers, "still_queued", lambda role, tokens, cost, seconds: tokens)
    status = worker_pb2.WorkerStatus(worker_id="p", role=worker_pb2.ROLE_PREFILL, model="m")
    status.queues.add(length_class="long", requests=1, tokens=300)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        worker = Worker("127.0.0.1:1", channel, "r", "m", lambda _: None)
        worker.received(status, ["m"], 10.0)
        worker.place(Placed(tokens=50))
        worker.crowded(700)
        assert worker.view().tokens_ahead == 700
        worker.place(Placed(tokens=100))
        assert worker.view().tokens_ahead == 800
        worker.crowded(40)  # less than its status had is no news
        assert worker.view().tokens_ahead == 300 + 150
        worker.crowded(5000)
        worker.received(status, ["m"], 10.0)
        assert worker.view().tokens_ahead == 300 + 150


@pytest.mark.parametrize("num_tokens", [2, 20])
async def test_what_a_crowded_decode_worker_does_not_compute_a_prefill_worker_does(
    deploy: Deploy, num_tokens: int
) -> None:
    deployment = await deploy(local_prefill=True, metrics_listen="127.0.0.1:0")
    (decode,), (prefill,) = deployment.decode, deployment.prefill
    for worker in deployment.workers:
        worker.status = dict(SLOW_LINK)
    await _with_routers(deployment, 8)
    decode.requests = 1000
    answer = await deployment.generate(max_tokens=num_tokens)
    assert answer.token_ids == stub_answer(PROMPT, num_tokens)
    assert answer.last.timings.retries == 0
    (reserve,), (request,) = decode.reserves, prefill.requests
    assert reserve.local
    assert reserve.most_requests < 1000
    assert request.destination.reservation == reserve.reservation
    crowded = {"phase": "reserve", "reason": "crowded"}
    assert await deployment.metric("lengthwise_retries_total", **crowded) == 1
    assert all(each.outstanding.local_tokens == 0 for each in deployment.app._fleet.workers)
    await deployment.nothing_is_held()


async def test_a_crowded_decode_worker_computes_where_no_prefill_worker_is(deploy: Deploy) -> None:
    deployment = await deploy(0, 1, local_prefill=True)
    await _with_routers(deployment, 8)
    deployment.decode[0].requests = 1000
    assert (await deployment.generate(max_tokens=5)).token_ids == stub_answer(PROMPT, 5)
    (reserve,) = deployment.decode[0].reserves
    assert reserve.local


async def test_the_requests_that_a_decode_worker_has_told_count_until_its_next_status() -> None:
    status = worker_pb2.WorkerStatus(worker_id="d", role=worker_pb2.ROLE_DECODE, model="m")
    status.running_requests = 2
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        worker = Worker("127.0.0.1:1", channel, "r", "m", lambda _: None)
        worker.received(status, ["m"], 10.0)
        worker.place(Placed(tokens=50))
        worker.has_requests(9)
        assert worker.view().load_requests == 9
        worker.has_requests(1)  # less than its status had is no news
        assert worker.view().load_requests == 2 + 1
        worker.has_requests(9)
        worker.received(status, ["m"], 10.0)
        assert worker.view().load_requests == 2 + 1


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
