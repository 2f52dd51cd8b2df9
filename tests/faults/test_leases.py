"""What a router has a decode worker hold is bounded by the worker itself, in time and number."""

from collections.abc import Iterator

import grpc
import pytest
from faults.processes import alone
from harness.waiting import eventually
from harness.workers import PlainRouter, prompt_of

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import Process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

A_DAY = 86_000.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("leases")
    model = write_toy_checkpoint(folder / "toy")
    bounds: dict[str, object] = {"max_request_seconds": 2.0, "max_reservations_per_router": 2}
    with alone("decode", model, folder, **bounds) as worker:
        yield worker


async def test_a_lease_of_a_day_ends_when_the_worker_says(worker: Process) -> None:
    router = PlainRouter(worker.address, worker.address)
    await router.open()
    number = router.number()
    await router.reserve(number, prompt_of(40), 4, lease_seconds=A_DAY)
    await eventually(lambda: number in router.ended)
    assert router.ended[number].error == "the lease ran out"
    await router.close()


async def test_a_release_that_overtakes_its_reservation_ends_it_too(worker: Process) -> None:
    router = PlainRouter(worker.address, worker.address)
    await router.open()
    number = router.number()
    await router.release(number)
    with pytest.raises(grpc.aio.AioRpcError, match="has ended") as refused:
        await router.reserve(number, prompt_of(40), 4)
    assert refused.value.code() is grpc.StatusCode.ABORTED
    await router.close()


async def test_one_router_leaves_room_for_another(worker: Process) -> None:
    greedy, modest = (PlainRouter(worker.address, worker.address) for _ in range(2))
    for router in (greedy, modest):
        await router.open()
    for number in (1, 2):
        await greedy.reserve(number, prompt_of(40), 4, lease_seconds=A_DAY)
    with pytest.raises(grpc.aio.AioRpcError, match="all that one router may") as refused:
        await greedy.reserve(3, prompt_of(40), 4, lease_seconds=A_DAY)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await modest.reserve(1, prompt_of(40), 4, lease_seconds=A_DAY)
    await greedy.release(1)
    await greedy.reserve(4, prompt_of(40), 4, lease_seconds=A_DAY)
    for router in (greedy, modest):
        await router.close()
