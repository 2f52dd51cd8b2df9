"""What flexible workers report of themselves, and how they are asked to change."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from autoscaler.flexible_stub import FlexibleStub
from harness.kubernetes_objects import pod

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.kubernetes import roles
from lengthwise_autoscaler.kubernetes.pods import ReleasePod, read_pods
from lengthwise_autoscaler.kubernetes.roles import FlexibleWorkers
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.v1 import worker_pb2


@pytest.fixture
async def worker() -> AsyncIterator[FlexibleStub]:
    worker = FlexibleStub()
    await worker.start()
    yield worker
    await worker.stop()


@pytest.fixture
async def workers() -> AsyncIterator[FlexibleWorkers]:
    workers = FlexibleWorkers(lambda address: open_channel(address, None))
    yield workers
    await workers.close()


def pod_of(worker: FlexibleStub, name: str = "w") -> ReleasePod:
    (found,) = read_pods([pod(name, pool="prefill", address=worker.address)], time.time())
    return found


async def test_a_worker_that_has_always_been_what_it_is_is_steady(
    worker: FlexibleStub, workers: FlexibleWorkers
) -> None:
    serving = (await workers.ask([pod_of(worker)]))["w"]
    assert (serving.role, serving.is_steady, serving.since) == ("prefill", True, 0.0)


async def test_a_flip_is_followed_from_the_order_to_the_other_role(
    worker: FlexibleStub, workers: FlexibleWorkers
) -> None:
    await workers.ask([pod_of(worker)])
    await workers.set_role(pod_of(worker), "decode")
    worker.draining, worker.role = True, worker_pb2.ROLE_PREFILL
    serving = (await workers.ask([pod_of(worker)]))["w"]
    assert (serving.role, serving.is_steady) == ("decode", False), "on its way"
    worker.draining, worker.role = False, worker_pb2.ROLE_DECODE
    began_at = time.monotonic()
    serving = (await workers.ask([pod_of(worker)]))["w"]
    assert (serving.role, serving.is_steady) == ("decode", True)
    assert serving.since >= began_at
    assert (await workers.ask([pod_of(worker)]))["w"] == serving, "since then"


async def test_a_worker_that_has_died_is_not_steady_and_keeps_its_role(
    worker: FlexibleStub, workers: FlexibleWorkers
) -> None:
    await workers.ask([pod_of(worker)])
    await worker.stop()
    serving = (await workers.ask([pod_of(worker)]))["w"]
    assert (serving.role, serving.is_steady) == ("prefill", False)


async def test_workers_that_are_silent_hold_up_no_other(
    worker: FlexibleStub, workers: FlexibleWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "ASK_SECONDS", 0.3)
    frozen = FlexibleStub()
    await frozen.start()
    frozen.freeze()
    began_at = time.monotonic()
    serving = await workers.ask([pod_of(frozen, "frozen"), pod_of(worker)])
    assert time.monotonic() - began_at < 10
    assert list(serving) == ["w"]
    await frozen.stop()


async def test_a_pod_without_address_is_not_asked(workers: FlexibleWorkers) -> None:
    assert await workers.ask(read_pods([pod("w", pool="prefill")], time.time())) == {}


async def test_a_pod_that_is_gone_is_forgotten(
    worker: FlexibleStub, workers: FlexibleWorkers
) -> None:
    await workers.ask([pod_of(worker)])
    assert await workers.ask([]) == {}
    await asyncio.wait_for(workers.ask([pod_of(worker)]), 5)


@pytest.mark.parametrize("fault", ["refused", "dead", "silent"])
async def test_a_worker_that_does_not_change_is_reported(
    worker: FlexibleStub, workers: FlexibleWorkers, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(roles, "SET_SECONDS", 0.5)
    if fault == "refused":
        worker.refusal = "is not flexible"
    elif fault == "silent":
        worker.freeze()
    else:
        await worker.stop()
    with pytest.raises(ScalingError, match="pod w does not become a decode worker") as caught:
        await workers.set_role(pod_of(worker), "decode")
    assert (caught.value.reason, caught.value.pool) == ("flip_failed", "prefill")
    assert fault != "refused" or "FAILED_PRECONDITION is not flexible" in str(caught.value)
