"""A flexible worker beside a local cluster, and how to flip it."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from harness.clusters import Load, all_finished_more, closed_loop
from harness.waiting import eventually
from harness.workers import all_free

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster, Process
from lengthwise_policy.types import Role
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.convert import ROLES, ROLES_ON_WIRE
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

STALL_SECONDS = 2.0
DRAIN_SECONDS = 4.0

GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""What a call receives for a moment, between the roles; one that comes as the old role's server
ends may receive nothing at all."""

LOOK_SECONDS = 2.0
"""After which a call is made anew, as routers do when a worker is silent."""

CLIENTS = 8
HUNG_SECONDS = 15.0

COMMAND = (sys.executable, "-m", "lengthwise_local.child", "lengthwise_flexible_worker")


def flexible_worker(
    cluster: LocalCluster, model: Path | str, role: Role, **config: object
) -> Process:
    """Not yet started; found by the cluster's routers. The test that starts it ends it."""
    return Process(
        name="flexible-0",
        role=role,
        command=COMMAND,
        config={
            "model": str(model),
            "role": role,
            "device": "cpu",
            "threads": 1,
            "announce_folder": str(cluster.folder / "announced"),
            **config,
        },
        folder=cluster.folder,
        env=dict(os.environ),
    )


async def set_role(address: str, role: Role) -> Role:
    """Begins a change; the role until now. Errors: AioRpcError."""
    async with open_channel(address, None) as channel:
        response = await worker_pb2_grpc.WorkerStub(channel).SetRole(
            worker_pb2.SetRoleRequest(role=ROLES_ON_WIRE[role]), timeout=5
        )
    return ROLES[response.previous]


async def serves(address: str, role: Role, within_seconds: float) -> worker_pb2.WorkerStatus:
    """Waits until the worker there has this role; its status then."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            async with open_channel(address, None) as channel:
                stub = worker_pb2_grpc.WorkerStub(channel)
                status: worker_pb2.WorkerStatus
                async for status in stub.Watch(worker_pb2.WatchRequest(), timeout=LOOK_SECONDS):
                    if ROLES[status.role] == role:
                        return status
        except grpc.aio.AioRpcError as error:
            if error.code() not in GONE:
                raise
            await asyncio.sleep(0.005)
    raise AssertionError(f"{address} is no {role} worker after {within_seconds} s")


async def flip(address: str, role: Role, within_seconds: float = 10.0) -> float:
    """Changes the role; the seconds from the wish to the first status in the new one."""
    began_at = time.monotonic()
    await set_role(address, role)
    await serves(address, role, within_seconds)
    return time.monotonic() - began_at


@asynccontextmanager
async def load_on(cluster: LocalCluster, spec: ToySpec, *, seed: int) -> AsyncIterator[Load]:
    """A steady one, meanwhile. Afterwards every request has been answered, and rightly."""
    load, stop = Load(), asyncio.Event()
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        traffic = asyncio.create_task(
            closed_loop(client, spec, load, stop, clients=CLIENTS, seed=seed)
        )
        try:
            await all_finished_more(load, 2, clients=CLIENTS)
            yield load
            await all_finished_more(load, 2, clients=CLIENTS)
        finally:
            stop.set()
            await traffic
    assert load.slowest_seconds < HUNG_SECONDS


async def nothing_is_held_by(*workers: Process) -> None:
    """Within a while, every block is free and no request waits."""
    addresses = [worker.address for worker in workers]
    await eventually(lambda: all_free(*addresses), 10)
