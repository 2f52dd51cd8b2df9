"""What may go wrong while a worker changes its role: it is killed, asked to end, its transfer
process or a peer freezes. No request fails, and the change ends in bounded time, or the process
does."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from flexible_worker.flexible import (
    DRAIN_SECONDS,
    STALL_SECONDS,
    load_on,
    nothing_is_held_by,
    serves,
    set_role,
)
from harness.waiting import eventually
from harness.workers import PlainRouter, prompt_of, status_of, transfer_process_of

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster, Process
from lengthwise_policy.types import Role

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

OTHER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}

CHANGE_SECONDS = DRAIN_SECONDS + STALL_SECONDS + 5.0
"""The longest that a change may take, whatever its peers do."""


@pytest.fixture(params=["prefill", "decode"])
async def role(request: pytest.FixtureRequest, worker: Process) -> Role:
    """The worker has it, and is about to change to the other."""
    role: Role = request.param
    await set_role(worker.address, role)
    await serves(worker.address, role, CHANGE_SECONDS)
    return role


@pytest.fixture
async def long_request(
    cluster: LocalCluster, worker: Process
) -> AsyncIterator["asyncio.Task[list[int]]"]:
    """Runs for longer than a drain may take, on the worker as a decode worker."""
    await set_role(worker.address, "decode")
    await serves(worker.address, "decode", CHANGE_SECONDS)
    router = PlainRouter(cluster.prefill[0].address, worker.address)
    await router.open()
    count = int(2 * DRAIN_SECONDS / 0.005)
    running = asyncio.create_task(router.generate(prompt_of(50), count, local=True))
    await eventually(lambda: len(router.tokens.get(1, {})) > 3)
    yield running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await router.close()


@pytest.mark.parametrize("role", ["decode"], indirect=True)
async def test_one_that_is_killed_in_a_change_is_not_missed(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec, role: Role
) -> None:
    async with load_on(cluster, toy_spec, seed=3):
        await set_role(worker.address, OTHER[role])
        worker.kill()
        await asyncio.to_thread(worker.restart)
    await nothing_is_held_by(*cluster.workers, worker)


@pytest.mark.parametrize("role", ["prefill"], indirect=True)
async def test_one_that_is_asked_to_end_in_a_change_ends_in_time(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec, role: Role
) -> None:
    async with load_on(cluster, toy_spec, seed=4):
        await set_role(worker.address, OTHER[role])
        worker.drain()
        assert await asyncio.to_thread(worker.wait, CHANGE_SECONDS) == 0
        await asyncio.to_thread(worker.restart)
    await nothing_is_held_by(*cluster.workers, worker)


async def test_one_whose_transfer_process_is_frozen_changes_in_bounded_time(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec, role: Role
) -> None:
    frozen = transfer_process_of(worker.pid)
    async with load_on(cluster, toy_spec, seed=5):
        frozen.send_signal(signal.SIGSTOP)
        await set_role(worker.address, OTHER[role])
        await serves(worker.address, OTHER[role], CHANGE_SECONDS)
        if frozen.is_running():
            frozen.send_signal(signal.SIGCONT)
    await nothing_is_held_by(*cluster.workers, worker)


async def test_one_whose_peer_is_frozen_changes_in_bounded_time(
    cluster: LocalCluster, worker: Process, toy_spec: ToySpec, role: Role
) -> None:
    """It becomes what the frozen one was."""
    peer = cluster.decode[0] if role == "prefill" else cluster.prefill[0]
    async with load_on(cluster, toy_spec, seed=6):
        peer.kill(signal.SIGSTOP)
        try:
            await set_role(worker.address, OTHER[role])
            await serves(worker.address, OTHER[role], CHANGE_SECONDS)
        finally:
            peer.kill(signal.SIGCONT)
    await nothing_is_held_by(*cluster.workers, worker)


async def test_what_does_not_end_in_time_is_given_back_and_the_change_goes_on(
    worker: Process, long_request: "asyncio.Task[list[int]]"
) -> None:
    began_at = time.monotonic()
    await set_role(worker.address, "prefill")
    with pytest.raises(AssertionError, match="this decode worker is going away"):
        await long_request
    assert DRAIN_SECONDS - 0.5 < time.monotonic() - began_at < DRAIN_SECONDS + 2
    await serves(worker.address, "prefill", 5.0)


async def test_one_that_drains_cannot_change_any_more(
    worker: Process, long_request: "asyncio.Task[list[int]]"
) -> None:
    async def drains() -> bool:
        return (await status_of(worker.address)).draining

    worker.drain()
    await eventually(drains)
    with pytest.raises(grpc.aio.AioRpcError, match="this worker is draining") as caught:
        await set_role(worker.address, "prefill")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await asyncio.to_thread(worker.restart)
    await asyncio.gather(long_request, return_exceptions=True)
