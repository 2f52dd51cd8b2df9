"""A flexible worker among others changes its role, back and forth, under load: no request fails,
and every token is what it would have been."""

import asyncio

import grpc
import pytest
from flexible_worker.flexible import flip, load_on, nothing_is_held_by, serves, set_role
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.samples import samples_of
from harness.waiting import eventually
from harness.workers import PlainRouter, oracle, prompt_of, status_of

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster, Process
from lengthwise_policy.types import Role
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.convert import ROLES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FLIP_SECONDS = 8.0
"""Requests of up to 40 tokens drain in about half a second; a busy machine needs longer."""

OTHER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}


async def _is_used(worker: Process) -> None:
    """Steps are counted from a role's beginning."""
    before = (await status_of(worker.address)).step

    async def has_stepped() -> bool:
        return (await status_of(worker.address)).step > before

    await eventually(has_stepped, 20)


async def test_flips_under_load_lose_nothing_and_each_role_is_used(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec
) -> None:
    role: Role = "decode"
    seen = set()
    async with load_on(cluster, toy_spec, seed=1):
        for _ in range(4):
            role = OTHER[role]
            await flip(worker.address, role, FLIP_SECONDS)
            await _is_used(worker)
            status = await status_of(worker.address)
            assert status.flexible
            assert not status.draining
            seen.add(status.worker_id)
    assert len(seen) == 4, "each role is another worker"
    await nothing_is_held_by(*cluster.workers, worker)


async def test_metrics_are_those_of_the_role_that_serves(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec
) -> None:
    def roles_shown() -> set[str]:
        samples = samples_of(worker.metrics_address)  # also while it changes
        return {
            value
            for name, labels in samples
            for key, value in labels
            if key == "role" and not name.startswith("lengthwise_role_changes")
        }

    async def watch(stop: asyncio.Event) -> None:
        while not stop.is_set():
            assert len(await asyncio.to_thread(roles_shown)) <= 1

    role = OTHER[ROLES[(await status_of(worker.address)).role]]
    changes = ("lengthwise_role_changes_total", frozenset({("role", role)}))
    before = (await asyncio.to_thread(samples_of, worker.metrics_address))[changes]
    stop = asyncio.Event()
    async with load_on(cluster, toy_spec, seed=2), asyncio.TaskGroup() as group:
        group.create_task(watch(stop))
        await flip(worker.address, role, FLIP_SECONDS)
        await _is_used(worker)
        stop.set()
    status = await status_of(worker.address)
    samples = await asyncio.to_thread(samples_of, worker.metrics_address)
    assert samples[changes] == before + 1
    assert {role} == await asyncio.to_thread(roles_shown)
    infos = [dict(labels) for name, labels in samples if name == "lengthwise_worker_info"]
    assert [info["worker_id"] for info in infos] == [status.worker_id]
    assert infos[0]["flexible"] == "true"
    assert infos[0]["model_fingerprint"] == status.model_fingerprint
    await nothing_is_held_by(*cluster.workers, worker)


async def _health(address: str) -> object:
    async with open_channel(address, None) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status


async def test_what_runs_is_finished_first_and_meanwhile_nothing_else_is_accepted(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec
) -> None:
    address = worker.address
    await set_role(address, "decode")
    await serves(address, "decode", FLIP_SECONDS)
    assert await set_role(address, "decode") == "decode"
    assert await _health(address) == health_pb2.HealthCheckResponse.SERVING
    router, prompt, count = PlainRouter(cluster.prefill[0].address, address), prompt_of(50), 100
    await router.open()
    try:
        running = asyncio.create_task(router.generate(prompt, count, local=True))
        await eventually(lambda: len(router.tokens.get(1, {})) > 3)
        wishes = [set_role(address, "prefill") for _ in range(3)]
        outcomes = await asyncio.gather(*wishes, return_exceptions=True)
        refused = [error for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
        assert [outcome for outcome in outcomes if outcome == "decode"] == ["decode"]
        assert [error.code() for error in refused] == [grpc.StatusCode.FAILED_PRECONDITION] * 2
        assert "changes its role already" in str(refused[0].details())
        assert (await status_of(address)).draining
        assert await _health(address) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await running == oracle(prompt, count, toy_spec)
    finally:
        await router.close()
    await serves(address, "prefill", FLIP_SECONDS)
    assert await _health(address) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("index", [0, 1], ids=["prefill", "decode"])
async def test_a_worker_of_one_role_refuses_to_change_it(cluster: LocalCluster, index: int) -> None:
    plain = cluster.workers[index]
    assert not (await status_of(plain.address)).flexible
    with pytest.raises(grpc.aio.AioRpcError, match="one role for all its life") as caught:
        await set_role(plain.address, "prefill")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
