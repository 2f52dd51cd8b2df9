"""All workers, live: one connection per discovered address, whichever model is served there.

A connection is a Watch stream, for decode workers a Tokens stream too, and the task that gives
reservations back. If any of them ends, or the worker falls silent, the whole connection ends, what
depends on the worker is notified, and a new connection is tried with growing pauses.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing

import grpc

from lengthwise_policy.placement.outstanding import status_interval
from lengthwise_policy.types import Role, WorkerId
from lengthwise_router.labels import Condition
from lengthwise_router.workers.model_workers import ModelWorkers
from lengthwise_router.workers.roster import Roster
from lengthwise_router.workers.wakeup import SWEEP_SECONDS
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

COMPARE_SECONDS = 0.25
"""Between two comparisons of all workers, which take 1 ms for a thousand."""

WATCH_ANEW_SECONDS = 0.05
"""At most this often a worker is watched anew, for statuses at another interval: the first of a
stream names every block that the worker has."""

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
        models: Collection[str],
        router_id: str,
        message_interval_seconds: float,
        heartbeat_timeout_seconds: float,
        step_stall_seconds: float,
    ) -> None:
        """`addresses`: of all workers (host:port), at first and on every change. `models`: names of
        those served."""
        self._discovered = addresses
        self._tls = tls
        self.router_id = router_id
        self._message_interval_seconds = message_interval_seconds
        self._heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._step_stall_seconds = step_stall_seconds
        self._roster = Roster()
        self._swept_at = time.monotonic()
        self._compared_at = -math.inf
        self._watched_anew_at = -math.inf
        self.models = {model: ModelWorkers(model, self._roster) for model in models}
        # Where one model is served, every worker is taken for one of its workers.
        self._presumed_model = next(iter(self.models)) if len(self.models) == 1 else ""

    @property
    def workers(self) -> tuple[Worker, ...]:
        return tuple(self._roster.workers.values())

    @property
    def num_discovered(self) -> int:
        """Addresses that discovery proposes."""
        return len(self._roster.addresses)

    def num_unknown(self, role: Role, condition: Condition) -> int:
        """Workers of which it is not known which served model is theirs, if any."""
        return sum(
            not worker.model and worker.role == role and worker.condition == condition
            for worker in self.workers
        )

    def _notify(self) -> None:
        for each in self.models.values():
            each.notify()

    async def run(self) -> None:
        """Follows discovery. Ends only with an error that is a defect, or when cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                async for addresses in self._discovered:
                    self._roster.addresses = addresses
                    self._notify()
                    for address in addresses - self._roster.workers.keys():
                        channel = await self._open(address)
                        worker = self._worker(address, channel)
                        self._roster.add(worker)
                        group.create_task(self._follow(worker), name=f"follow {address}")
            finally:
                # A connection that breaks at the very moment it is cancelled ends as broken: then
                # this keeps it from being made anew.
                self._roster.addresses = frozenset()

    def _worker(self, address: str, channel: grpc.aio.Channel) -> Worker:
        changed = self._roster.changed
        return Worker(address, channel, self.router_id, self._presumed_model, changed)

    def sweep(self, now: float) -> None:
        """Gives up workers that would have been silent for too long at the sweep after the next,
        for the next may be late, and compares the others."""
        stood_still = now - self._swept_at
        self._swept_at = now
        for worker in self._roster.workers.values():
            if stood_still > OWN_PAUSE_SECONDS:
                worker.received_at += stood_still
            if now + 2 * SWEEP_SECONDS - worker.received_at > self._heartbeat_timeout_seconds:
                worker.lose("silent")
        if now - self._compared_at >= COMPARE_SECONDS:
            self._compared_at = now
            for worker in self._roster.workers.values():
                worker.time_passes(now)
            for each in self.models.values():
                each.compare()

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
        while worker.address in self._roster.addresses:
            began_at = time.monotonic()
            try:
                await self._connect(worker)
            finally:
                worker.lose("stream_broken" if self._roster.addresses else "closed")
            lasted = time.monotonic() - began_at
            pause = MIN_PAUSE_SECONDS if lasted > 1.0 else min(2 * pause, MAX_PAUSE_SECONDS)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            if files != (files := file_versions(self._tls)):
                await worker.channel.close(None)
                worker.call_through(await self._open(worker.address))
        self._roster.remove(worker)
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
        has_decode_tasks = False
        workers: ModelWorkers | None = None
        worker_id = WorkerId("")
        try:
            async with aclosing(self._statuses(worker)) as statuses:
                async for status in statuses:
                    if status.worker_id != worker_id and self._is_duplicate(worker, status):
                        raise _ConnectionEnded
                    if workers is not None and status.model != workers.model:
                        raise _ConnectionEnded  # another model's worker is another worker
                    self._received(worker, status)
                    if worker.condition == "incompatible":
                        continue
                    workers, worker_id = self.models[worker.model], worker.worker_id
                    workers.prefixes.update(status)
                    is_ready = worker.role == "decode" and worker.condition == "ready"
                    if is_ready and not has_decode_tasks:
                        has_decode_tasks = True
                        connection.create_task(self._receive_tokens(worker))
                        connection.create_task(worker.releases.run())
        finally:
            if workers is not None:
                workers.prefixes.forget(worker_id)
        raise _ConnectionEnded

    def _received(self, worker: Worker, status: worker_pb2.WorkerStatus) -> None:
        before = worker.offers
        worker.received(status, self.models.keys(), self._step_stall_seconds)
        if worker.offers != before:
            self._notify()
            if worker.is_usable and worker.role == "prefill":
                self.models[worker.model].prefill_worker_came(worker.worker_id)

    async def _statuses(self, worker: Worker) -> AsyncGenerator[worker_pb2.WorkerStatus]:
        """At an interval that suits the number of workers, and at another one once that has changed
        much."""
        stub = worker_pb2_grpc.WorkerStub(worker.channel)
        has_ended = False
        while not has_ended:
            interval = self._status_interval
            watch = stub.Watch(
                worker_pb2.WatchRequest(router_id=self.router_id, interval_seconds=interval)
            )
            has_ended = True
            try:
                async for status in watch:
                    yield status
                    if self._is_unsuited(interval):
                        has_ended = False
                        break
            finally:
                watch.cancel()

    @property
    def _status_interval(self) -> float:
        """Seconds; two statuses may be late before a worker is taken for silent."""
        return min(status_interval(self.num_discovered), self._heartbeat_timeout_seconds / 3)

    def _is_unsuited(self, interval: float) -> bool:
        """Whether a stream with this interval should make way for one with another now."""
        if 0.5 < self._status_interval / interval < 2.0:
            return False
        now = time.monotonic()
        if now - self._watched_anew_at < WATCH_ANEW_SECONDS:
            return False  # it is another worker's turn
        self._watched_anew_at = now
        return True

    async def _receive_tokens(self, worker: Worker) -> None:
        stub = decode_pb2_grpc.DecodeWorkerStub(worker.channel)
        request = decode_pb2.TokensRequest(
            router_id=self.router_id, interval_seconds=self._message_interval_seconds
        )
        batches = stub.Tokens(request)
        async for batch in batches:
            if not worker.is_streaming:  # which is all that the first, empty batch means
                worker.tokens_come()
                self._notify()
            try:
                worker.streams.deliver(batch)
            except ValueError as error:
                logger.error("%r: malformed batch of tokens: %s", worker, error)
                raise _ConnectionEnded from error
        raise _ConnectionEnded

    def _is_duplicate(self, worker: Worker, status: worker_pb2.WorkerStatus) -> bool:
        """One worker under two addresses: two Tokens streams would end each other for ever."""
        for other in self._roster.workers.values():
            if other is not worker and other.worker_id == status.worker_id:
                logger.warning(
                    "worker %s is known at %s already; its address %s is not used",
                    *(status.worker_id, other.address, worker.address),
                )
                return True
        return False
