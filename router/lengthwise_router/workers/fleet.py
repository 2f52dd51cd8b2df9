"""All workers, live: one connection per discovered address, and which of them may be used.

A connection is a Watch stream, for decode workers a Tokens stream too, and the task that gives
reservations back. If any of them ends, or the worker falls silent, the whole connection ends, what
depends on the worker is notified, and a new connection is tried with growing pauses.
"""

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from statistics import median_low

import grpc

from lengthwise_policy.cost.model import typical_cost
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Role, WorkerId
from lengthwise_router.labels import Condition
from lengthwise_router.workers.prefixes import Prefixes
from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_router.workers.worker import Worker
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tls.credentials import file_versions
from lengthwise_wire.v1 import decode_pb2, decode_pb2_grpc, worker_pb2, worker_pb2_grpc

logger = logging.getLogger(__name__)

MIN_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""By a worker, of this router's certificate."""

OWN_PAUSE_SECONDS = 0.5
"""When sweeps lie further apart, this process itself stood still, and silence means nothing."""


class _ConnectionEnded(Exception):
    pass


class Fleet:
    """Life: construct, `run` for ever, `close`."""

    def __init__(
        self,
        *,
        addresses: AsyncIterator[frozenset[str]],
        tls: TlsConfig | None,
        model: str,
        router_id: str,
        heartbeat_timeout_seconds: float,
        step_stall_seconds: float,
    ) -> None:
        """`addresses`: of all workers (host:port), at first and on every change."""
        self._discovered = addresses
        self._tls = tls
        self._model = model
        self.router_id = router_id
        self._heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._step_stall_seconds = step_stall_seconds
        self._addresses: frozenset[str] = frozenset()
        self._workers: dict[str, Worker] = {}
        self._swept_at = time.monotonic()
        self._notified: set[Wakeup] = set()
        self.prefixes = Prefixes()
        self.short_tokens = DEFAULT_SHORT_TOKENS
        """Where most prefill workers draw the line between the length classes."""

    @property
    def workers(self) -> tuple[Worker, ...]:
        return tuple(self._workers.values())

    def num_workers(self, role: Role, condition: Condition) -> int:
        return sum(worker.role == role and worker.condition == condition for worker in self.workers)

    @property
    def num_discovered(self) -> int:
        """Addresses that discovery proposes."""
        return len(self._addresses)

    @property
    def is_complete(self) -> bool:
        """Whether it is known of every address that discovery proposes which worker is there."""
        known = {
            address
            for address, worker in self._workers.items()
            if worker.is_usable or worker.condition == "incompatible"
        }
        return self._addresses <= known

    @property
    def capacity_tokens(self) -> int:
        """Of the largest decode worker that takes new requests; 0 while there is none."""
        _, decode = self.views()
        return max((view.capacity_tokens for view in decode if not view.draining), default=0)

    def views(self) -> tuple[list[WorkerView], list[WorkerView]]:
        """The prefill and the decode workers that policies may choose from. One that discovery has
        withdrawn is as good as draining: it goes on with what it has."""
        prefill: list[WorkerView] = []
        decode: list[WorkerView] = []
        for worker in self._workers.values():
            if worker.is_usable:
                view = worker.view()
                if worker.address not in self._addresses:
                    view = dataclasses.replace(view, draining=True)
                (prefill if worker.role == "prefill" else decode).append(view)
        return prefill, decode

    def worker(self, worker_id: WorkerId) -> Worker:
        """A worker of the views. Errors: KeyError."""
        for worker in self._workers.values():
            if worker.is_usable and worker.worker_id == worker_id:
                return worker
        raise KeyError(worker_id)

    @contextmanager
    def notifying(self, wakeup: Wakeup) -> Iterator[None]:
        """Within, it rings whenever a request may find a worker that it did not find before."""
        self._notified.add(wakeup)
        try:
            yield
        finally:
            self._notified.discard(wakeup)

    def _notify(self) -> None:
        for wakeup in self._notified:
            wakeup.ring()

    @property
    def model_fingerprint(self) -> str:
        """Of the weights that most workers serve; empty while there is none."""
        found = [
            worker.status.model_fingerprint
            for worker in self._workers.values()
            if worker.is_usable and worker.status is not None
        ]
        return max(found, key=found.count, default="")

    async def run(self) -> None:
        """Follows discovery. Ends only with an error that is a defect, or when cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                async for addresses in self._discovered:
                    self._addresses = addresses
                    self._notify()
                    for address in addresses - self._workers.keys():
                        worker = Worker(address, await self._open(address), self.router_id)
                        self._workers[address] = worker
                        group.create_task(self._follow(worker), name=f"follow {address}")
            finally:
                # A connection that breaks at the very moment it is cancelled ends as broken: then
                # this keeps it from being made anew.
                self._addresses = frozenset()

    def sweep(self, now: float) -> None:
        """Gives up workers that have been silent for too long, and takes from the others the
        boundary of the length classes and what newcomers' steps may take."""
        stood_still = now - self._swept_at
        self._swept_at = now
        for worker in self._workers.values():
            if stood_still > OWN_PAUSE_SECONDS:
                worker.received_at += stood_still
            if now - worker.received_at > self._heartbeat_timeout_seconds:
                worker.lose("silent")
        boundaries = [
            worker.short_tokens
            for worker in self._workers.values()
            if worker.role == "prefill" and worker.is_usable
        ]
        if boundaries:
            self.short_tokens = median_low(boundaries)
        for newcomer in [worker for worker in self._workers.values() if worker.is_newcomer]:
            peers = [
                cost
                for worker in self._workers.values()
                if worker.role == newcomer.role and (cost := worker.measured_cost) is not None
            ]
            if peers:
                newcomer.presume(typical_cost(peers))

    async def flush_releases(self) -> None:
        """Returns when every reservation has been given back."""
        for worker in self.workers:
            await worker.releases.flushed()

    async def close(self) -> None:
        """To be called once `run` has been cancelled."""
        for worker in self.workers:
            await worker.channel.close(None)

    async def _follow(self, worker: Worker) -> None:
        """Keeps a worker connected while discovery proposes it, and then to the connection's own
        end: a worker that drains leaves discovery first."""
        pause = MIN_PAUSE_SECONDS
        files = file_versions(self._tls)
        while worker.address in self._addresses:
            began_at = time.monotonic()
            try:
                await self._connect(worker)
            finally:
                worker.lose("stream_broken" if self._addresses else "closed")
            lasted = time.monotonic() - began_at
            pause = MIN_PAUSE_SECONDS if lasted > 1.0 else min(2 * pause, MAX_PAUSE_SECONDS)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            if files != (files := file_versions(self._tls)):
                await worker.channel.close(None)
                worker.call_through(await self._open(worker.address))
        del self._workers[worker.address]
        await worker.channel.close(None)

    async def _open(self, address: str) -> grpc.aio.Channel:
        """With the certificate as it is now, which the channel then keeps. While its files cannot
        be used, as they may be for a moment while they are replaced, it waits."""
        while True:
            try:
                return open_channel(address, self._tls)
            except ConfigError as error:
                logger.error("%s is not called: %s", address, error)
                await asyncio.sleep(MAX_PAUSE_SECONDS)

    async def _connect(self, worker: Worker) -> None:
        """One connection, from its first call to its end."""
        worker.connecting()
        try:
            async with asyncio.TaskGroup() as connection:
                connection.create_task(self._end_when_lost(worker))
                await self._watch(worker, connection)
        except* (grpc.aio.AioRpcError, _ConnectionEnded) as errors:
            logger.debug("%r: connection ended: %s", worker, errors.exceptions)
            for error in errors.exceptions:
                if isinstance(error, grpc.aio.AioRpcError) and error.code() in REFUSALS:
                    worker.refused(error.details() or error.code().name)

    async def _end_when_lost(self, worker: Worker) -> None:
        await worker.lost.wait()
        raise _ConnectionEnded

    async def _watch(self, worker: Worker, connection: asyncio.TaskGroup) -> None:
        watch = worker_pb2_grpc.WorkerStub(worker.channel).Watch(worker_pb2.WatchRequest())
        has_decode_tasks = False
        worker_id = WorkerId("")
        try:
            async for status in watch:
                if self._is_duplicate(worker, status):
                    raise _ConnectionEnded
                before = worker.offers
                worker.received(status, self._model, self._step_stall_seconds)
                if worker.offers != before:
                    self._notify()
                if worker.condition == "incompatible":
                    continue
                worker_id = worker.worker_id
                self.prefixes.update(status)
                if worker.role == "decode" and worker.condition == "ready" and not has_decode_tasks:
                    has_decode_tasks = True
                    connection.create_task(self._receive_tokens(worker))
                    connection.create_task(worker.releases.run())
        finally:
            self.prefixes.forget(worker_id)
        raise _ConnectionEnded

    async def _receive_tokens(self, worker: Worker) -> None:
        stub = decode_pb2_grpc.DecodeWorkerStub(worker.channel)
        batches = stub.Tokens(decode_pb2.TokensRequest(router_id=self.router_id))
        async for batch in batches:
            if not worker.is_streaming:  # which is all that the first, empty batch means
                worker.is_streaming = True
                self._notify()
            try:
                worker.streams.deliver(batch)
            except ValueError as error:
                logger.error("%r: malformed batch of tokens: %s", worker, error)
                raise _ConnectionEnded from error
        raise _ConnectionEnded

    def _is_duplicate(self, worker: Worker, status: worker_pb2.WorkerStatus) -> bool:
        """One worker under two addresses: two Tokens streams would end each other for ever."""
        for other in self._workers.values():
            if other is not worker and other.worker_id == status.worker_id:
                logger.warning(
                    "worker %s is known at %s already; its address %s is not used",
                    *(status.worker_id, other.address, worker.address),
                )
                return True
        return False
