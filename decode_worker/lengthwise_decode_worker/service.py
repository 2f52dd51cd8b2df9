"""The DecodeWorker service: calls of routers and prefill workers become reservations, streams and
links."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from lengthwise_decode_worker.kv.link import PrefillLink
from lengthwise_decode_worker.kv.receive import KVReceive
from lengthwise_decode_worker.messages import DecodeWork
from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.reservation_span import ReservationSpan
from lengthwise_decode_worker.reservations import Reservations
from lengthwise_engine.sampling.grammar import GrammarState
from lengthwise_policy.decode.gathering import LONGEST_INTERVAL_SECONDS
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.kv.prefix_cache import block_hashes
from lengthwise_policy.spreading import exceeds
from lengthwise_policy.types import RequestId
from lengthwise_wire.errors import DeadlineExceeded, InvalidRequest, NoWorkerAvailable
from lengthwise_wire.v1 import decode_pb2, decode_pb2_grpc
from lengthwise_worker.adapters.lease import AdapterLease
from lengthwise_worker.engine import Engine
from lengthwise_worker.requests import check_request, salt_of, sampling_state

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import Tracer

Context = grpc.aio.ServicerContext[Any, Any]

MAX_LEASE_SECONDS = 86_400.0

MAX_RELEASED = 1 << 16
"""Reservations in one call: routers keep no more of them."""

HELLO_SECONDS = 5.0
"""A control stream that is silent for so long is not a prefill worker's."""


class DecodeService(decode_pb2_grpc.DecodeWorkerServicer):
    """Checks what it is sent; routers have checked it too, but a worker does not rely on them."""

    def __init__(
        self,
        engine: Engine,
        *,
        reservations: Reservations,
        receive: KVReceive,
        publisher: Publisher,
        max_seconds: float,
        tracer: "Tracer | None" = None,
    ) -> None:
        """`max_seconds`: the longest lease."""
        self._tracer = tracer
        self._spec = engine.model.spec
        self._grammars = engine.grammars
        self._adapters = engine.adapters
        self._fingerprints = (engine.model.fingerprint, engine.layout_fingerprint)
        self._block_size = engine.model.shards.layout.block_size
        self._reservations = reservations
        self._receive = receive
        self._publisher = publisher
        self._max_seconds = max_seconds
        self.draining = False

    async def Reserve(
        self, request: decode_pb2.ReserveRequest, context: Context
    ) -> decode_pb2.ReserveResponse:
        if self.draining:
            raise NoWorkerAvailable("this decode worker is draining; try another one")
        self._check(request)
        grammar = await self._grammars.state(request.grammar)
        most = request.most_requests if request.HasField("most_requests") else None
        is_crowded = request.local and exceeds(len(self._reservations), most)
        lease = min(request.lease_seconds, self._max_seconds)
        seconds = min(context.time_remaining() or lease, lease)
        try:
            async with asyncio.timeout(seconds):
                adapter = await self._adapters.lease(request.adapter)
                local = request.local and not is_crowded
                work = self._work(request, grammar, adapter, lease, local=local)
                span = self._span(context)
                grant = await self._reservations.reserve(work, request.epoch, span)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no KV blocks were free within {seconds:.3f} s") from error
        return decode_pb2.ReserveResponse(
            num_cached_tokens=grant.num_cached_tokens,
            reason=grant.reason,
            requests=len(self._reservations) if is_crowded else None,
        )

    async def Release(
        self, request: decode_pb2.ReleaseRequest, context: Context
    ) -> decode_pb2.ReleaseResponse:
        if len(request.reservations) > MAX_RELEASED:
            raise InvalidRequest(
                f"reservations: got {len(request.reservations)}, expected at most {MAX_RELEASED}"
            )
        for reservation in request.reservations:
            self._reservations.release(_request_id(request.router_id, reservation))
        return decode_pb2.ReleaseResponse()

    async def Tokens(
        self, request: decode_pb2.TokensRequest, context: Context
    ) -> AsyncIterator[decode_pb2.TokenBatch]:
        router_id = request.router_id
        _check_router_id(router_id)
        _check_interval(request.interval_seconds)
        # What an earlier stream of this router reserved is not this stream's.
        self._reservations.cancel_router(router_id)
        try:
            async with aclosing(
                self._publisher.stream(router_id, request.interval_seconds)
            ) as batches:
                async for batch in batches:
                    yield batch
        finally:
            if not self._publisher.is_open(router_id):
                self._reservations.cancel_router(router_id)

    async def Transfer(
        self, request_iterator: AsyncIterator[decode_pb2.TransferFrame], context: Context
    ) -> AsyncIterator[decode_pb2.TransferReply]:
        async with asyncio.timeout(HELLO_SECONDS):
            hello = (await anext(request_iterator)).hello
        self._check_hello(hello)
        link = self._receive.open_link(hello.link)
        reader = asyncio.create_task(self._read(request_iterator, link), name=f"read {link.name}")
        reader.add_done_callback(lambda _: link.changed.set())
        reason = "the prefill worker ended the control stream"
        try:
            while not reader.done() and link.failure is None:
                await link.changed.wait()
                link.changed.clear()
                while link.replies:
                    yield link.replies.popleft()
            if link.failure is not None:
                raise link.failure
            reader.result()
        except (grpc.aio.BaseError, InvalidRequest) as error:
            reason = str(error)
            raise
        finally:
            reader.cancel()
            self._receive.close_link(link, reason)

    async def _read(
        self, frames: AsyncIterator[decode_pb2.TransferFrame], link: PrefillLink
    ) -> None:
        async for frame in frames:
            kind = frame.WhichOneof("frame")
            if kind == "announce":
                await self._receive.announce(link, frame.announce)
            elif kind == "commit":
                self._receive.commit(link, frame.commit)
            else:
                raise InvalidRequest(f"frame: got {kind}, expected announce or commit")

    def _span(self, context: Context) -> ReservationSpan | None:
        if self._tracer is None:
            return None
        span = self._tracer.begin("decode worker", context.invocation_metadata() or ())
        return None if span is None else ReservationSpan(span)

    def _check(self, request: decode_pb2.ReserveRequest) -> None:
        _check_router_id(request.router_id)
        check_request(request, self._spec)
        num_tokens, limit = len(request.token_ids), self._spec.context_length
        if not 1 <= request.max_tokens <= limit - num_tokens:
            raise InvalidRequest(
                f"max_tokens: got {request.max_tokens}, expected 1 to {limit - num_tokens}: the"
                f" context holds {limit} tokens, the prompt has {num_tokens}"
            )
        if not 0 < request.lease_seconds <= MAX_LEASE_SECONDS:
            raise InvalidRequest(
                f"lease_seconds: got {request.lease_seconds}, expected above 0, at most"
                f" {MAX_LEASE_SECONDS:.0f}"
            )

    def _check_hello(self, hello: decode_pb2.TransferHello) -> None:
        ours, theirs = self._fingerprints, (hello.model_fingerprint, hello.layout_fingerprint)
        if theirs != ours:
            raise InvalidRequest(
                f"prefill worker {hello.worker_id} serves model and KV layout {theirs}, this decode"
                f" worker {ours}; they cannot exchange KV"
            )

    def _work(
        self,
        request: decode_pb2.ReserveRequest,
        grammar: GrammarState | None,
        adapter: AdapterLease | None,
        lease_seconds: float,
        *,
        local: bool,
    ) -> DecodeWork:
        token_ids = list(request.token_ids)
        salt = salt_of(request, self._fingerprints[0])
        return DecodeWork(
            reservation=Reservation(
                request_id=_request_id(request.router_id, request.reservation),
                num_tokens=len(token_ids),
                max_new_tokens=request.max_tokens,
                deadline_at=time.monotonic() + lease_seconds,
                hashes=block_hashes(token_ids, self._block_size, salt),
                local=local,
                returning=request.conversation_returns,
                priority=request.priority,
            ),
            salt=salt,
            router_id=request.router_id,
            number=request.reservation,
            token_ids=token_ids,
            sampling=sampling_state(request, token_ids, grammar),
            stop_token_ids=frozenset(request.stop_token_ids),
            adapter=adapter,
        )


def _check_router_id(router_id: str) -> None:
    if not 1 <= len(router_id) <= 128:
        raise InvalidRequest(f"router_id: got {len(router_id)} characters, expected 1 to 128")


def _check_interval(seconds: float) -> None:
    if not 0 <= seconds <= LONGEST_INTERVAL_SECONDS:
        raise InvalidRequest(
            f"interval_seconds: got {seconds}, expected 0 to {LONGEST_INTERVAL_SECONDS:g}"
        )


def _request_id(router_id: str, reservation: int) -> RequestId:
    return RequestId(f"{router_id}/{reservation}")
