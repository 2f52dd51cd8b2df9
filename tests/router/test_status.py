"""What a router tells of its workers, and of how long its requests took."""

from harness.waiting import eventually
from router.deployment import Deploy, Deployment

import lengthwise


async def status_of(deployment: Deployment) -> lengthwise.RouterStatus:
    async with lengthwise.AsyncClient(str(deployment.app.address)) as client:
        return await client.status(timeout=5)


async def test_a_router_reports_every_worker_as_it_sees_it(deploy: Deploy) -> None:
    deployment = await deploy(num_prefill=1, num_decode=2)
    deployment.prefill[0].blocks = list(range(10_000))
    deployment.prefill[0].draining = True
    await eventually(lambda: len(deployment.served.workers.views()[0]) == 1)
    await eventually(lambda: deployment.served.workers.views()[0][0].draining)
    status = await status_of(deployment)
    assert ([model.model for model in status.models], status.draining) == (["stub"], False)
    assert status.num_workers == 3
    assert [worker.address for worker in status.workers] == sorted(
        worker.address for worker in deployment.workers
    )
    by_id = {worker.worker_id: worker for worker in status.workers}
    prefill = by_id[deployment.prefill[0].worker_id]
    assert (prefill.role, prefill.condition) == ("prefill", "draining")
    decode = by_id[deployment.decode[1].worker_id]
    assert (decode.role, decode.condition) == ("decode", "ready")
    assert (decode.blocks_total, decode.blocks_free, decode.block_size) == (1000, 1000, 16)


async def test_a_worker_that_is_gone_is_reported_as_lost(deploy: Deploy) -> None:
    deployment = await deploy(num_decode=2)
    await deployment.decode[0].stop()
    await deployment.ready(2)
    (gone,) = [worker for worker in (await status_of(deployment)).workers if not worker.worker_id]
    assert gone.condition in ("connecting", "lost")
    assert (gone.role, gone.blocks_total, gone.queues) == ("", 0, ())


async def test_latencies_count_every_request_once_in_its_class(deploy: Deploy) -> None:
    deployment = await deploy()
    for _ in range(3):
        await deployment.generate(max_tokens=5)
    await deployment.generate(max_tokens=1)
    latencies = (await status_of(deployment)).models[0].latencies
    counts = {(each.measure, each.length_class): each.count for each in latencies}
    assert counts == {
        ("ttft", "short"): 4, ("ttft", "long"): 0, ("tpot", "short"): 3, ("tpot", "long"): 0
    }  # fmt: skip
    assert all(len(each.counts) == len(each.upper_bounds) + 1 for each in latencies)


async def test_an_idle_router_has_nothing_in_flight(deploy: Deploy) -> None:
    status = await status_of(await deploy())
    assert (status.requests_in_flight, status.requests_waiting) == (0, 0)
    assert status.uptime_seconds > 0
    assert status.models[0].short_tokens > 0
    assert status.router_id.startswith("router-")
