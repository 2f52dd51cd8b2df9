"""What the workers of flexible pools serve now, and having one serve the other role.

A worker that changes its role drains as its former self: it is on its way to the other. One that
cannot be asked is between the two, or stuck; either way it is not counted on.

Every call is bounded, and a worker that does not answer holds up no other.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.kubernetes.pods import ReleasePod
from lengthwise_policy.types import Role
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.convert import ROLES, ROLES_ON_WIRE
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

logger = logging.getLogger(__name__)

ASK_SECONDS = 2.0
"""Workers send a heartbeat each half second, and the first at once."""

SET_SECONDS = 5.0

MAX_ASKED_AT_ONCE = 32

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""By a worker, of the autoscaler's certificate."""

_OTHER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a worker serves."""

    role: Role  # where it changes, what it will serve
    is_steady: bool  # it answers, and does not change
    since: float  # by the monotonic clock; 0 when it has been so ever since it was first seen


class FlexibleWorkers:
    """Keeps a channel to each pod it was asked about last."""

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel]) -> None:
        """`open_channel(host:port)`"""
        self._open_channel = open_channel
        self._channels: dict[str, grpc.aio.Channel] = {}  # by pod
        self._known: dict[str, Serving] = {}  # by pod

    async def ask(self, pods: Iterable[ReleasePod]) -> dict[str, Serving]:
        """By pod; pods that never answered are left out."""
        wanted = {pod.name: pod for pod in pods if pod.address}
        for name in self._channels.keys() - wanted.keys():
            await self._channels.pop(name).close(None)
            self._known.pop(name, None)
        places = asyncio.Semaphore(MAX_ASKED_AT_ONCE)
        await asyncio.gather(*(self._ask(pod, places) for pod in wanted.values()))
        return {name: self._known[name] for name in wanted if name in self._known}

    async def set_role(self, pod: ReleasePod, role: Role) -> None:
        """Returns once the change has begun. Errors: ScalingError `flip_failed`."""
        request = worker_pb2.SetRoleRequest(role=ROLES_ON_WIRE[role])
        try:
            stub = worker_pb2_grpc.WorkerStub(self._channel(pod))
            await stub.SetRole(request, timeout=SET_SECONDS)
        # ConfigError: the files of TLS.
        except (grpc.aio.AioRpcError, ConfigError) as error:
            raise ScalingError(
                "flip_failed",
                f"pod {pod.name} does not become a {role} worker: {_status_text(error)}; the next"
                " round tries again",
                pool=pod.pool,
            ) from error

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    def _channel(self, pod: ReleasePod) -> grpc.aio.Channel:
        if pod.name not in self._channels:
            self._channels[pod.name] = self._open_channel(pod.address)
        return self._channels[pod.name]

    async def _ask(self, pod: ReleasePod, places: asyncio.Semaphore) -> None:
        async with places:
            status = await self._first_status(pod)
        last = self._known.get(pod.name)
        role = ROLES.get(status.role) if status is not None else None
        if status is None or role is None:
            if last is not None and last.is_steady:
                self._known[pod.name] = _changed(last.role, is_steady=False)
            return
        is_steady = not status.draining
        if not is_steady:
            role = _OTHER[role]
        if last is None:
            self._known[pod.name] = Serving(role=role, is_steady=is_steady, since=0.0)
        elif (last.role, last.is_steady) != (role, is_steady):
            self._known[pod.name] = _changed(role, is_steady=is_steady)

    async def _first_status(self, pod: ReleasePod) -> worker_pb2.WorkerStatus | None:
        try:
            stub = worker_pb2_grpc.WorkerStub(self._channel(pod))
        except ConfigError as error:
            logger.error("pod %s cannot be asked: %s", pod.name, error)
            return None
        call = stub.Watch(worker_pb2.WatchRequest(), timeout=ASK_SECONDS)
        try:
            status = await call.read()
        except grpc.aio.AioRpcError as error:
            refused = error.code() in REFUSALS
            level = logging.ERROR if refused else logging.DEBUG
            logger.log(level, "pod %s cannot be asked: %s", pod.name, _status_text(error))
            # The next channel is opened with the certificate as it is by then.
            await self._channels.pop(pod.name).close(None)
            return None
        finally:
            call.cancel()
        # The end of a stream is reported by another object.
        return status if isinstance(status, worker_pb2.WorkerStatus) else None


def _status_text(error: grpc.aio.AioRpcError | ConfigError) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name} {error.details()}"
    return str(error)


def _changed(role: Role, *, is_steady: bool) -> Serving:
    return Serving(role=role, is_steady=is_steady, since=time.monotonic())
