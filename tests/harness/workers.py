"""A router made of plain calls, to drive workers phase by phase, and what tests ask of workers."""

import asyncio
import itertools
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import psutil

from harness.toy_oracle import toy_continuation
from harness.waiting import eventually
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.forks.server import set_own_server
from lengthwise_local.shared_imports import shared_imports
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.v1 import (
    common_pb2,
    decode_pb2,
    decode_pb2_grpc,
    prefill_pb2,
    prefill_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from lengthwise_worker.application import CHILD_MODULES

GREEDY = common_pb2.SamplingParams(
    temperature=0,
    top_k=0,
    top_p=1,
    min_p=0,
    repetition_penalty=1,
    presence_penalty=0,
    frequency_penalty=0,
    seed=1,
)


def oracle(prompt: Sequence[int], count: int, spec: ToySpec) -> list[int]:
    """The first `count` tokens that follow `prompt`."""
    return toy_continuation(prompt, count, spec)


def prompt_of(num_tokens: int, seed: int = 0) -> list[int]:
    return [(7 * i + 13 * seed + i * i) % 250 for i in range(num_tokens)]


TRANSFER_SECONDS = 5.0
"""From the first token to the decode worker's first: routers give up after that by default."""


class TransferTimedOut(Exception):
    """Nothing came of the decode worker in time."""


class PlainRouter:
    """Speaks the workers' protocol call by call."""

    def __init__(self, prefill: str, decode: str) -> None:
        self.router_id = f"router-{uuid.uuid4().hex[:8]}"
        self.decode_address = decode
        self._prefill_channel = open_channel(prefill, None)
        self._decode_channel = open_channel(decode, None)
        self.prefill_stub = prefill_pb2_grpc.PrefillWorkerStub(self._prefill_channel)
        self.decode_stub = decode_pb2_grpc.DecodeWorkerStub(self._decode_channel)
        self._numbers = itertools.count(1)
        self.tokens: dict[int, dict[int, int]] = {}
        self.ended: dict[int, decode_pb2.Ended] = {}
        self.local_prefills: dict[int, decode_pb2.LocalPrefill] = {}
        self.logprobs: dict[int, dict[int, common_pb2.TokenLogprobs]] = {}
        self.preempted: list[int] = []
        self.cached: dict[int, int] = {}
        self._reading: asyncio.Task[None] | None = None
        self._call: Any = None

    async def open(self) -> None:
        self._call = self.decode_stub.Tokens(decode_pb2.TokensRequest(router_id=self.router_id))
        first = await asyncio.wait_for(self._call.read(), 5)
        assert first == decode_pb2.TokenBatch()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (batch := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            rows = zip(batch.reservations, batch.indices, batch.token_ids, strict=True)
            for reservation, index, token_id in rows:
                got = self.tokens.setdefault(reservation, {})
                assert index not in got, "a token came twice"
                got[index] = token_id
            for row in batch.logprobs:
                number, index = batch.reservations[row.row], batch.indices[row.row]
                self.logprobs.setdefault(number, {})[index] = row.logprobs
            for local in batch.local_prefills:
                assert self.tokens.get(local.reservation), "reported before its first token"
                self.local_prefills[local.reservation] = local
            self.preempted.extend(batch.preempted)
            for ended in batch.ended:
                self.ended[ended.reservation] = ended

    def _is_cut_off(self) -> bool:
        """A real router continues elsewhere what has not ended then."""
        return self._reading is not None and self._reading.done()

    async def leave(self) -> None:
        """Ends the Tokens stream, as the death of a router does."""
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def close(self) -> None:
        await self.leave()
        await self._prefill_channel.close(None)
        await self._decode_channel.close(None)

    def number(self) -> int:
        return next(self._numbers)

    async def reserve(
        self, number: int, prompt: Sequence[int], max_tokens: int, **fields: Any
    ) -> decode_pb2.ReserveResponse:
        request = decode_pb2.ReserveRequest(
            request_id=f"request-{number}",
            router_id=self.router_id,
            reservation=number,
            epoch=fields.pop("epoch", 1),
            token_ids=prompt,
            num_prompt_tokens=fields.pop("num_prompt_tokens", len(prompt)),
            sampling=GREEDY,
            max_tokens=max_tokens,
            lease_seconds=fields.pop("lease_seconds", 60.0),
            **fields,
        )
        response: decode_pb2.ReserveResponse = await self.decode_stub.Reserve(request, timeout=30)
        self.cached[number] = response.num_cached_tokens
        return response

    def prefill(
        self,
        number: int,
        prompt: Sequence[int],
        *,
        epoch: int = 1,
        pushed: bool = True,
        timeout: float = 20.0,
        **fields: Any,
    ) -> Any:
        """The call, not yet awaited."""
        request = prefill_pb2.PrefillRequest(
            request_id=f"request-{number}",
            epoch=epoch,
            token_ids=prompt,
            num_prompt_tokens=len(prompt),
            sampling=GREEDY,
            **fields,
        )
        if pushed:
            request.destination.CopyFrom(
                prefill_pb2.KVDestination(
                    address=self.decode_address,
                    worker_id="decode",
                    reservation=number,
                    router_id=self.router_id,
                    num_cached_tokens=self.cached.get(number, 0),
                )
            )
        return self.prefill_stub.Prefill(request, timeout=timeout)

    async def release(self, number: int) -> None:
        await self.decode_stub.Release(
            decode_pb2.ReleaseRequest(router_id=self.router_id, reservations=[number]), timeout=5
        )

    async def _transferred(self, number: int) -> None:
        def has_come() -> bool:
            return len(self.tokens[number]) > 1 or number in self.ended or self._is_cut_off()

        try:
            await eventually(has_come, TRANSFER_SECONDS)
        except AssertionError as error:
            raise TransferTimedOut(f"no token of the decode worker {error}") from error

    async def generate(
        self, prompt: Sequence[int], max_tokens: int, *, number: int = 0, **fields: Any
    ) -> list[int]:
        """All phases without a fault; `local=True` leaves the prefill worker out."""
        number = number or self.number()
        await self.reserve(number, prompt, max_tokens, **fields)
        try:
            if not fields.get("local"):
                first = await self.prefill(number, prompt)
                self.tokens.setdefault(number, {})[0] = first.token_id
                await self._transferred(number)
            await eventually(lambda: number in self.ended or self._is_cut_off(), 20)
            assert number in self.ended, "the stream of tokens broke"
        except BaseException:
            with suppress(grpc.aio.AioRpcError):  # the worker may be gone
                await self.release(number)
            raise
        assert not self.ended[number].error, self.ended[number].error
        rows = self.tokens[number]
        assert sorted(rows) == list(range(max_tokens)), "an index is missing"
        return [rows[index] for index in sorted(rows)]


async def status_of(address: str) -> worker_pb2.WorkerStatus:
    channel = open_channel(address, None)
    call = worker_pb2_grpc.WorkerStub(channel).Watch(worker_pb2.WatchRequest(), timeout=5)
    status = await call.read()
    call.cancel()
    await channel.close(None)
    if not isinstance(status, worker_pb2.WorkerStatus):
        raise AssertionError(f"no status from {address}")
    return status


async def all_free(*addresses: str) -> bool:
    statuses = [await status_of(address) for address in addresses]
    return all(
        s.blocks_free == s.blocks_total and not s.running_requests and not s.queues[0].requests
        for s in statuses
    )


def fork_children() -> None:
    """From now on workers within this process fork their processes, as real ones do."""
    set_own_server(shared_imports.server(os.environ))


def running(module: str, pid: int | None = None) -> list[psutil.Process]:
    """The descendants of `pid`, else of this process, that run `module`."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            # A fork server that has just begun names every module that it imports, without "-m".
            if f" -m {module} " in f"{' '.join(process.cmdline())} ":
                found.append(process)
    return found


def transfer_processes_of(pid: int) -> list[psutil.Process]:
    """Of a worker's descendants those that own its process groups."""
    return running(CHILD_MODULES[0], pid)


def transfer_process_of(pid: int) -> psutil.Process:
    (found,) = transfer_processes_of(pid)
    return found


def is_refused(error: BaseException, code: grpc.StatusCode) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is code
