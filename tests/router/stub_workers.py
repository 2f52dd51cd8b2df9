"""Prefill and decode workers without a model, which serve the real services and misbehave on
command: they die, freeze, delay, err, break streams and drop tokens.

The next token is a function of the tokens before it, so what a request must answer is
known, whichever workers it meets on its way.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from math import inf
from typing import Any, NoReturn

from harness.stub_worker import MODEL as MODEL
from harness.stub_worker import Context
from harness.stub_worker import StubWorker as StubWorker

from lengthwise_policy.length_class import length_class
from lengthwise_runtime.server import Server
from lengthwise_wire.errors import LengthwiseError
from lengthwise_wire.v1 import (
    common_pb2,
    decode_pb2,
    decode_pb2_grpc,
    prefill_pb2,
    prefill_pb2_grpc,
    worker_pb2,
)


def stub_next_token(token_ids: Sequence[int]) -> int:
    """Printable ASCII."""
    return 33 + (sum(token_ids[-3:]) * 7 + len(token_ids) * 13) % 90


def stub_answer(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The tokens that stubs generate after a prompt."""
    token_ids = list(prompt)
    for _ in range(num_tokens):
        token_ids.append(stub_next_token(token_ids))
    return token_ids[len(prompt) :]


class StubPrefill(StubWorker, prefill_pb2_grpc.PrefillWorkerServicer):
    """A prefill worker that reaches its decode workers in memory."""

    role = worker_pb2.ROLE_PREFILL
    service = "lengthwise.v1.PrefillWorker"

    def __init__(self, decode: "Sequence[StubDecode]", **options: Any) -> None:
        super().__init__(**options)
        self._decode = decode
        self.requests: list[prefill_pb2.PrefillRequest] = []
        self.cancelled = 0
        self.error: LengthwiseError | None = None
        self.delay_seconds = 0.0
        self.hangs = False
        self.commits = True
        self.tokens_ahead: int | None = None  # None: of a version that queues behind any number

    def _register(self, server: Server) -> None:
        prefill_pb2_grpc.add_PrefillWorkerServicer_to_server(self, server.guarded)

    async def Prefill(
        self, request: prefill_pb2.PrefillRequest, context: Context
    ) -> prefill_pb2.PrefillResponse:
        self.requests.append(request)
        most = request.most_tokens_ahead if request.HasField("most_tokens_ahead") else inf
        if self.tokens_ahead is not None and self.tokens_ahead > most:
            return prefill_pb2.PrefillResponse(tokens_ahead=self.tokens_ahead)
        self.running += 1
        try:
            await self._compute()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        token_ids = list(request.token_ids)
        token_id = stub_next_token(token_ids)
        response = prefill_pb2.PrefillResponse(
            token_id=token_id,
            queue_seconds=0.25,
            prefill_seconds=0.5,
            num_cached_tokens=self.num_cached_tokens,
            length_class=length_class(len(token_ids) - self.num_cached_tokens),
            reason="stub",
        )
        if request.HasField("top_logprobs"):
            response.logprobs.CopyFrom(stub_logprobs(token_id, request.top_logprobs))
        if token_id in request.stop_token_ids:
            response.finish_reason = common_pb2.FINISH_REASON_STOP
        elif request.HasField("destination") and self.commits:
            for decode in self._decode:
                if decode.worker_id == request.destination.worker_id:
                    decode.commit(request, token_id)
        return response

    async def _compute(self) -> None:
        await self.while_frozen()
        if self.error is not None:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        self.step += 1


class _Sequence:
    """A reservation of the stub decode worker."""

    def __init__(self, request: decode_pb2.ReserveRequest, *, is_crowded: bool) -> None:
        self.request = request
        self.epoch = request.epoch
        self.token_ids = list(request.token_ids)
        self.is_local = request.local and not is_crowded
        self.committed = self.is_local  # computed in the next step

    @property
    def is_first(self) -> bool:
        """Whether the next token is the first of a prompt computed here."""
        return self.is_local and len(self.token_ids) == len(self.request.token_ids)


class StubDecode(StubWorker, decode_pb2_grpc.DecodeWorkerServicer):
    """A decode worker that gives each committed request a token per step."""

    role = worker_pb2.ROLE_DECODE
    service = "lengthwise.v1.DecodeWorker"

    def __init__(self, *, step_seconds: float = 0.002, **options: Any) -> None:
        super().__init__(**options)
        self.step_seconds = step_seconds
        self.held: dict[int, _Sequence] = {}
        self.reserves: list[decode_pb2.ReserveRequest] = []
        self.released: list[int] = []
        self.release_calls = 0
        self.failed_releases = 0
        self.cancelled_reserves = 0
        self.reserve_error: LengthwiseError | None = None
        self.release_error: LengthwiseError | None = None
        self.reserve_hangs = False
        self.last_index: int | None = None  # no token beyond this one
        self.drop_index: int | None = None  # this token is lost
        self.repeat = False  # every token is sent twice
        self.end_error: tuple[int, str] | None = None  # at this index, with this error
        self.end_refuses = False  # `end_error` is the request's own fault
        self.break_at: int | None = None  # the stream breaks after this index
        self.steps_go_on = True  # even where no token comes of them
        self.requests: int | None = None  # None: of a version that computes beside any number
        self.local_error: str | None = None  # of every prompt that is to be computed here
        self.local_hangs = False
        self.local_seconds = 0.125
        self.interval_seconds: float | None = None  # as a router asked
        self._streams: dict[str, asyncio.Queue[decode_pb2.TokenBatch | None]] = {}
        self._stepping: asyncio.Task[None] | None = None

    def _register(self, server: Server) -> None:
        decode_pb2_grpc.add_DecodeWorkerServicer_to_server(self, server.guarded)

    async def start(self, listen: str = "127.0.0.1:0") -> None:
        await super().start(listen)
        self._stepping = asyncio.create_task(self._step_for_ever())

    async def stop(self) -> None:
        if self._stepping is not None:
            self._stepping.cancel()
            await asyncio.gather(self._stepping, return_exceptions=True)
        self.held.clear()
        await super().stop()

    async def Reserve(
        self, request: decode_pb2.ReserveRequest, context: Context
    ) -> decode_pb2.ReserveResponse:
        self.reserves.append(request)
        await self.while_frozen()
        if self.reserve_error is not None:
            raise self.reserve_error
        if request.router_id not in self._streams:
            raise LengthwiseError(f"router {request.router_id} has no Tokens stream")
        most = request.most_requests if request.HasField("most_requests") else inf
        is_crowded = request.local and self.requests is not None and self.requests > most
        older = self.held.get(request.reservation)
        if older is not None:
            older.epoch = request.epoch
        else:
            self.held[request.reservation] = _Sequence(request, is_crowded=is_crowded)
        if self.reserve_hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled_reserves += 1
                raise
        return decode_pb2.ReserveResponse(
            num_cached_tokens=self.num_cached_tokens,
            reason="stub",
            requests=self.requests if is_crowded else None,
        )

    async def Release(
        self, request: decode_pb2.ReleaseRequest, context: Context
    ) -> decode_pb2.ReleaseResponse:
        await self.while_frozen()
        if self.release_error is not None:
            self.failed_releases += 1
            raise self.release_error
        self.release_calls += 1
        for reservation in request.reservations:
            self.released.append(reservation)
            self.held.pop(reservation, None)
        return decode_pb2.ReleaseResponse()

    async def Tokens(
        self, request: decode_pb2.TokensRequest, context: Context
    ) -> AsyncIterator[decode_pb2.TokenBatch]:
        queue: asyncio.Queue[decode_pb2.TokenBatch | None] = asyncio.Queue()
        self.interval_seconds = request.interval_seconds
        self._streams[request.router_id] = queue
        try:
            yield decode_pb2.TokenBatch()
            while (batch := await queue.get()) is not None:
                await self.while_frozen()
                yield batch
        finally:
            if self._streams.get(request.router_id) is queue:
                del self._streams[request.router_id]
                self.held.clear()

    def commit(self, request: prefill_pb2.PrefillRequest, first_token_id: int) -> None:
        """What a prefill worker does over the wire."""
        sequence = self.held.get(request.destination.reservation)
        if sequence is not None and sequence.epoch == request.epoch:
            sequence.token_ids.append(first_token_id)
            sequence.committed = True

    def fail_all(self, error: str) -> None:
        """Ends every reservation with an error."""
        ended = [decode_pb2.Ended(reservation=number, error=error) for number in self.held]
        self.held.clear()
        self.send(decode_pb2.TokenBatch(ended=ended))

    def break_streams(self) -> None:
        for queue in self._streams.values():
            queue.put_nowait(None)

    def send(self, batch: decode_pb2.TokenBatch) -> None:
        """Sends a batch of a test's own making to every router."""
        for queue in self._streams.values():
            queue.put_nowait(batch)

    def send_rows(self, reservation: int, indices: Sequence[int]) -> None:
        """Rows of a reservation that need not exist."""
        count = len(indices)
        self.send_columns(
            reservations=[reservation] * count, indices=indices, token_ids=[65] * count
        )

    def send_columns(
        self, *, reservations: Sequence[int], indices: Sequence[int], token_ids: Sequence[int]
    ) -> None:
        self.send(
            decode_pb2.TokenBatch(reservations=reservations, indices=indices, token_ids=token_ids)
        )

    async def _step_for_ever(self) -> NoReturn:
        while True:
            await asyncio.sleep(self.step_seconds)
            await self.while_frozen()
            self.running = sum(sequence.committed for sequence in self.held.values())
            batch = decode_pb2.TokenBatch()
            for reservation, sequence in list(self.held.items()):
                if sequence.committed:
                    self._advance(batch, reservation, sequence)
            if batch.reservations or batch.ended:
                self.step += 1
                self.send(batch)
                if self.break_at in batch.indices:
                    self.break_streams()
            elif self.running and self.steps_go_on:
                self.step += 1

    def _advance(self, batch: decode_pb2.TokenBatch, reservation: int, sequence: _Sequence) -> None:
        request = sequence.request
        index = len(sequence.token_ids) - request.num_prompt_tokens
        if self.last_index is not None and index > self.last_index:
            return
        if self.end_error is not None and index >= self.end_error[0]:
            ended = decode_pb2.Ended(
                reservation=reservation, error=self.end_error[1], refused=self.end_refuses
            )
            batch.ended.append(ended)
            del self.held[reservation]
            return
        if sequence.is_first and not self._compute(batch, reservation):
            return
        token_id = stub_next_token(sequence.token_ids)
        sequence.token_ids.append(token_id)
        if index != self.drop_index:
            for _ in range(2 if self.repeat else 1):
                if request.HasField("top_logprobs"):
                    row = decode_pb2.RowLogprobs(row=len(batch.indices))
                    row.logprobs.CopyFrom(stub_logprobs(token_id, request.top_logprobs))
                    batch.logprobs.append(row)
                batch.reservations.append(reservation)
                batch.indices.append(index)
                batch.token_ids.append(token_id)
        num_fresh = len(sequence.token_ids) - len(request.token_ids)
        if token_id in request.stop_token_ids or num_fresh == request.max_tokens:
            reason = (
                common_pb2.FINISH_REASON_STOP
                if token_id in request.stop_token_ids
                else common_pb2.FINISH_REASON_LENGTH
            )
            batch.ended.append(decode_pb2.Ended(reservation=reservation, finish_reason=reason))
            del self.held[reservation]

    def _compute(self, batch: decode_pb2.TokenBatch, reservation: int) -> bool:
        """Computes a prompt, if it can."""
        if self.local_error is not None:
            batch.ended.append(decode_pb2.Ended(reservation=reservation, error=self.local_error))
            del self.held[reservation]
        elif not self.local_hangs:
            batch.local_prefills.append(
                decode_pb2.LocalPrefill(
                    reservation=reservation,
                    queue_seconds=self.local_seconds,
                    prefill_seconds=2 * self.local_seconds,
                    num_cached_tokens=self.num_cached_tokens,
                    reason="stub",
                )
            )
            return True
        return False


def stub_logprobs(token_id: int, num_top: int) -> common_pb2.TokenLogprobs:
    """Made up, but a function of the token."""
    return common_pb2.TokenLogprobs(
        logprob=-token_id / 100,
        top=[
            common_pb2.Logprob(token_id=token_id + rank, logprob=-(token_id + rank) / 100)
            for rank in range(num_top)
        ],
    )


async def start_stubs(
    num_prefill: int = 1, num_decode: int = 1, **decode_options: Any
) -> tuple[list[StubPrefill], list[StubDecode]]:
    decode = [StubDecode(**decode_options) for _ in range(num_decode)]
    prefill = [StubPrefill(decode) for _ in range(num_prefill)]
    for worker in (*prefill, *decode):
        await worker.start()
    return prefill, decode
