"""A flexible worker beside a local cluster, its status, and how to change its role."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final

import grpc

from lengthwise_local import LocalCluster, Process
from lengthwise_policy.types import Role
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.convert import ROLES, ROLES_ON_WIRE
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

POLL_SECONDS: Final = 0.005
WATCH_SECONDS: Final = 2.0
"""After which a watch that brings no status is made anew."""

BETWEEN_ROLES: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""How a call ends while neither role serves."""


def flexible_worker(cluster: LocalCluster, model: Path, role: Role, **config: object) -> Process:
    """Not yet started; found by the cluster's routers. The caller ends it."""
    return Process(
        name="flexible-0",
        role=role,
        command=(sys.executable, "-m", "lengthwise_local.child", "lengthwise_flexible_worker"),
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


async def status_of(address: str) -> worker_pb2.WorkerStatus:
    """The next one that it reports. Errors: AioRpcError."""
    async with open_channel(address, None) as channel:
        watch = worker_pb2_grpc.WorkerStub(channel).Watch
        status: worker_pb2.WorkerStatus
        async for status in watch(worker_pb2.WatchRequest(), timeout=WATCH_SECONDS):
            return status
    raise RuntimeError(f"no status from {address}")


async def flip(address: str, role: Role, within_seconds: float) -> float:
    """Changes the role; the seconds from the call to the first status in the new role."""
    began_at = time.monotonic()
    async with open_channel(address, None) as channel:
        request = worker_pb2.SetRoleRequest(role=ROLES_ON_WIRE[role])
        await worker_pb2_grpc.WorkerStub(channel).SetRole(request, timeout=5)
    while time.monotonic() < began_at + within_seconds:
        try:
            if ROLES[(await status_of(address)).role] == role:
                return time.monotonic() - began_at
        except grpc.aio.AioRpcError as error:
            if error.code() not in BETWEEN_ROLES:
                raise
        await asyncio.sleep(POLL_SECONDS)
    raise RuntimeError(f"{address} is no {role} worker after {within_seconds} s")
