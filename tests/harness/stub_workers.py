"""Prefill and decode workers without a model, which serve the real services and misbehave on
command: they die, freeze, delay, err, break streams and drop tokens.

The rule: the next token is a function of the tokens before it, so what a request must answer is
known, whichever workers it meets on its way.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import grpc

from lengthwise.errors import LengthwiseError
from lengthwise.v1 import (
    common_pb2,
    decode_pb2,
    decode_pb2_grpc,
    prefill_pb2,
    prefill_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from lengthwise_runtime.server import Server

Context = grpc.aio.ServicerContext[Any, Any]

MODEL = "stub"
HEARTBEAT_SECONDS = 0.05

_ids = itertools.count()


def stub_next_token(token_ids: Sequence[int]) -> int:
    """Printable ASCII."""
    return 33 + (sum(token_ids[-3:]) * 7 + len(token_ids) * 13) % 90


def stub_answer(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The tokens that stubs generate after a prompt."""
    token_ids = list(prompt)
    for _ in range(num_tokens):
        token_ids.append(stub_next_token(token_ids))
    return token_ids[len(prompt) :]


class StubWorker(worker_pb2_grpc.WorkerServicer):
    """What both roles share: the server, the status, and the ways to fail as a whole."""

    role = worker_pb2.ROLE_UNSPECIFIED
    service = ""

    def __init__(self, *, model: str = MODEL, fingerprint: str = "weights") -> None:
        self.worker_id = f"{type(self).__name__}-{next(_ids)}"
        self.address = ""
        self.model = model
        self.fingerprint = fingerprint
        self.draining = False
        self.running = 0
        self.step = 0
        self.blocks_total = 1000
        self.watches = 0
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._server: Server | None = None

    async def start(self, listen: str = "127.0.0.1:0") -> None:
        self._server = Server(listen, None, [self.service])
        worker_pb2_grpc.add_WorkerServicer_to_server(self, self._server.guarded)
        self._register(self._server)
        self.address = str(await self._server.start())

    def _register(self, server: Server) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        """Dies: every call is cut off."""
        self.thaw()
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def restart(self) -> None:
        """Comes back under the same address as another process would."""
        self.worker_id = f"{type(self).__name__}-{next(_ids)}"
        await self.start(self.address)

    def freeze(self) -> None:
        """Says and does nothing any more, as a stopped process."""
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    async def while_frozen(self) -> None:
        await self._thawed.wait()

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WorkerStatus]:
        self.watches += 1
        while True:
            await self.while_frozen()
            yield worker_pb2.WorkerStatus(
                worker_id=self.worker_id,
                role=self.role,
                model=self.model,
                model_fingerprint=self.fingerprint,
                layout_fingerprint="layout",
                block_size=16,
                blocks_total=self.blocks_total,
                blocks_free=self.blocks_total,
                running_requests=self.running,
                step=self.step,
                draining=self.draining,
            )
            await asyncio.sleep(HEARTBEAT_SECONDS)


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

    def _register(self, server: Server) -> None:
        prefill_pb2_grpc.add_PrefillWorkerServicer_to_server(self, server.guarded)

    async def Prefill(
        self, request: prefill_pb2.PrefillRequest, context: Context
    ) -> prefill_pb2.PrefillResponse:
        self.requests.append(request)
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
            token_id=token_id, queue_seconds=0.25, prefill_seconds=0.5
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

    def __init__(self, request: decode_pb2.ReserveRequest) -> None:
        self.request = request
        self.epoch = request.epoch
        self.token_ids = list(request.token_ids)
        self.committed = False


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
        self.break_at: int | None = None  # the stream breaks after this index
        self.steps_go_on = True  # even where no token comes of them
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
        older = self.held.get(request.reservation)
        if older is not None:
            older.epoch = request.epoch
        else:
            self.held[request.reservation] = _Sequence(request)
        if self.reserve_hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled_reserves += 1
                raise
        return decode_pb2.ReserveResponse()

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
        """Rows of a reservation that may be nobody's."""
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
            batch.ended.append(decode_pb2.Ended(reservation=reservation, error=self.end_error[1]))
            del self.held[reservation]
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
