"""Workers of older versions below a newer router, which shares them with others: they drop what it
asks for, and tell it nothing of that."""

from collections.abc import AsyncIterator
from typing import Any

from harness.stub_worker import Context
from harness.waiting import eventually
from router.deployment import PROMPT, SLOW_LINK, Deploy, Deployment, Running
from router.stub_workers import StubDecode, StubPrefill, stub_answer
from wire.versions import through_older

from lengthwise_wire.v1 import decode_pb2, prefill_pb2, worker_pb2

WATCH = ("router_id", "interval_seconds", "routers", "transfer_down")
PREFILL = ("most_tokens_ahead", "tokens_ahead")
RESERVE = ("most_requests", "requests")


class OldPrefill(StubPrefill):
    """Sends all of its blocks with each status, as stubs do, every 0.05 s."""

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        async for status in super().Watch(through_older(request, *WATCH), context):
            yield through_older(status, *WATCH)

    async def Prefill(
        self, request: prefill_pb2.PrefillRequest, context: Context
    ) -> prefill_pb2.PrefillResponse:
        response = await super().Prefill(through_older(request, *PREFILL), context)
        return through_older(response, *PREFILL)


class OldDecode(StubDecode):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[decode_pb2.ReserveRequest] = []

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        async for status in super().Watch(through_older(request, *WATCH), context):
            yield through_older(status, *WATCH)

    async def Reserve(
        self, request: decode_pb2.ReserveRequest, context: Context
    ) -> decode_pb2.ReserveResponse:
        self.asked.append(request)
        response = await super().Reserve(through_older(request, *RESERVE), context)
        return through_older(response, *RESERVE)


async def _mixed(deploy: Deploy, running: Running, *, local_prefill: bool) -> Deployment:
    """A pair of each version, which eight routers share; the newer ones are crowded."""
    decode = OldDecode()
    prefill = OldPrefill([decode])
    await running(decode, prefill)
    deployment = await deploy(
        1, 1, local_prefill=local_prefill, extra_endpoints=[decode.address, prefill.address]
    )
    prefill._decode = [*deployment.decode, decode]
    deployment.prefill[0]._decode = [*deployment.decode, decode]
    deployment.prefill.append(prefill)
    deployment.decode.append(decode)
    await deployment.ready()
    for worker in deployment.workers:
        worker.status = {"routers": 8}
    await eventually(lambda: deployment.served.workers.other_routers == 7)
    deployment.prefill[0].tokens_ahead = deployment.decode[0].requests = 1000
    return deployment


async def test_older_workers_take_what_newer_ones_refuse(deploy: Deploy, running: Running) -> None:
    mixed = await _mixed(deploy, running, local_prefill=False)
    for _ in range(20):
        answer = await mixed.generate(max_tokens=5)
        assert answer.token_ids == stub_answer(PROMPT, 5)
        assert answer.last.timings.retries == 0
    new, old = mixed.prefill
    assert any(each.HasField("most_tokens_ahead") for each in new.requests)
    assert old.requests
    assert not any(each.HasField("most_tokens_ahead") for each in old.requests)
    await mixed.nothing_is_held()


async def test_an_older_decode_worker_computes_beside_any_number(
    deploy: Deploy, running: Running
) -> None:
    mixed = await _mixed(deploy, running, local_prefill=True)
    for worker in mixed.workers:
        worker.status = {"routers": 8, **SLOW_LINK}
    new, old = mixed.decode
    await new.stop()
    await mixed.ready(3)
    fleet = mixed.served.workers
    await eventually(lambda: all(view.is_fitted for views in fleet.views() for view in views))
    old.requests = 1000  # and would refuse, if it knew how
    answer = await mixed.generate(max_tokens=5)
    assert answer.token_ids == stub_answer(PROMPT, 5)
    assert isinstance(old, OldDecode)
    (asked,) = old.asked
    assert asked.local
    assert asked.HasField("most_requests")
    assert not any(prefill.requests for prefill in mixed.prefill)
