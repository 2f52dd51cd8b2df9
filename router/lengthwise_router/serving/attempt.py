"""One attempt at a request, on one pair of workers: Reserve → Prefill → tokens; or on a decode
worker alone, which computes the prompt too: Reserve → tokens.

    phase      waits for                          ends early when
    reserve    blocks at the decode worker        a worker is lost, the call fails or times out
    prefill    the prefill worker's reply; alone  the same; the reservation failed
               the decode worker's first token
    transfer   the decode worker's first token    a worker is lost, the stream breaks, time out
    decode     its further tokens                 the decode worker is lost, the stream breaks,
                                                  no token for too long

The rule: what has been generated stays generated. A failed attempt says whom to blame, and the next
one goes on from there.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Self

import grpc

from lengthwise_policy.length_class import length_class
from lengthwise_policy.types import WorkerId
from lengthwise_router.config import RouterConfig
from lengthwise_router.labels import FailureReason, LossReason, Phase
from lengthwise_router.serving.generation import Generation, Tokens
from lengthwise_router.serving.reservation import DecodeReservation
from lengthwise_router.workers.outstanding import Placed
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.errors import (
    ERROR_KEY,
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
    Overloaded,
    TransferFailed,
    from_status,
)
from lengthwise_wire.v1 import common_pb2, prefill_pb2


@dataclass(slots=True, kw_only=True, eq=False)
class AttemptFailed(Exception):
    """`error` is what the client is told if no further attempt is made."""

    phase: Phase
    reason: FailureReason
    error: LengthwiseError
    blamed: frozenset[WorkerId]
    keeps_reservation: bool = False


class WorkerAttempt:
    """A context manager: within it, the attempt learns of the loss of its workers."""

    def __init__(
        self,
        *,
        generation: Generation,
        prefill: Worker | None,
        residual_tokens: int,
        reservation: DecodeReservation | None,
        router_id: str,
        config: RouterConfig,
    ) -> None:
        """Without a `prefill` worker the reservation is a local one; without a reservation one
        token is all. `residual_tokens`: what the prefill worker has to compute, as far as known."""
        self._generation = generation
        self._prefill = prefill
        self._prefill_id = prefill.worker_id if prefill is not None else WorkerId("")
        self._residual_tokens = residual_tokens
        self._preemptions_told = 0
        self._reservation = reservation
        self._router_id = router_id
        self._config = config
        self._phase: Phase = "reserve"
        self._lost: tuple[Worker, LossReason] | None = None
        self._silent_since = 0.0

    def __enter__(self) -> Self:
        if self._prefill is not None:
            self._prefill.dependents.add(self)
        if self._reservation is not None:
            self._reservation.worker.dependents.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._prefill is not None:
            self._prefill.dependents.discard(self)
        if self._reservation is not None:
            self._reservation.worker.dependents.discard(self)

    def worker_lost(self, worker: Worker, reason: LossReason) -> None:
        reservation = self._reservation
        if worker is self._prefill and reservation is not None:
            if not reservation.is_untouched:
                return  # it has done its part: tokens come
            if self._phase == "transfer" and worker.has_left:
                return  # it waited for its transfers; the decode worker tells of one that failed
        self._lost = worker, reason
        self._generation.deadline.wakeup.ring()

    async def first_token(self) -> Tokens:
        """Reserves and prefills. Errors: AttemptFailed."""
        if self._reservation is not None:
            await self._reserve(self._reservation)
        self._phase = "prefill"
        if self._prefill is None:
            self._silent_since = time.monotonic()
            return await self.next_tokens()
        short = length_class(self._residual_tokens, self._prefill.short_tokens) == "short"
        placed = Placed(
            tokens=self._residual_tokens, short_tokens=self._residual_tokens if short else 0
        )
        self._prefill.place(placed)
        try:
            reply = await self._call(
                self._prefill.prefill,
                self._prefill_request(),
                self._config.prefill_timeout_seconds,
                self._prefill_id,
            )
        finally:
            self._prefill.unplace(placed)
        return self._accept_first(reply)

    async def _reserve(self, reservation: DecodeReservation) -> None:
        generation = self._generation
        began_at = time.monotonic()
        reply = await self._call(
            reservation.worker.reserve,
            reservation.request(generation, self._router_id),
            self._config.reserve_timeout_seconds,
            reservation.worker_id,
        )
        seconds = time.monotonic() - began_at
        generation.reserve_seconds += seconds
        generation.record.reserved(seconds, reply)
        if reply.num_cached_tokens >= len(generation.token_ids):
            raise self._failure(
                "malformed",
                f"the decode worker told of {reply.num_cached_tokens} cached tokens, the prompt has"
                f" {len(generation.token_ids)} and the last is never cached",
                {reservation.worker_id},
            )
        reservation.num_cached_tokens = reply.num_cached_tokens

    async def next_tokens(self) -> Tokens:
        """The tokens since the last call, as soon as there are any. Errors: AttemptFailed."""
        reservation = self._reservation
        assert reservation is not None
        stream = reservation.stream
        deadline = self._generation.deadline
        now = time.monotonic()
        while True:
            self._hear(reservation)
            # What came before a failure is good.
            if stream.may_leave(now):
                stream.pace(now)
                return self._accept(*stream.take())
            if stream.ended is not None:
                return self._accept([], [])
            self._check()
            if stream.last_row_at is not None:
                self._phase = "decode"
            give_up_at = max(stream.alive_at, self._silent_since) + self._silence_seconds()
            if now >= give_up_at:
                raise self._failure("timeout", "no tokens come", self._both_unless_decoding())
            if stream.token_ids:
                stream.ring_when_due()
            now = await deadline.wait(give_up_at)

    def _silence_seconds(self) -> float:
        """How long nothing may come, in this phase, of a request that computes."""
        config = self._config
        if self._phase == "decode":
            return config.token_timeout_seconds
        local = self._prefill is None
        return config.prefill_timeout_seconds if local else config.transfer_timeout_seconds

    def _hear(self, reservation: DecodeReservation) -> None:
        """Takes over what the stream tells beside tokens."""
        generation, stream = self._generation, reservation.stream
        told, stream.local_prefill = stream.local_prefill, None
        if told is not None:
            generation.queue_seconds += told.queue_seconds
            generation.prefill_seconds += told.prefill_seconds
            generation.record.local_prefill(told)
        if reservation.is_local and stream.last_row_at is not None:
            reservation.computed()
        while self._preemptions_told < stream.num_preemptions:
            self._preemptions_told += 1
            generation.record.preempted()

    async def _call(self, method: Any, message: Any, seconds: float, callee: WorkerId) -> Any:
        """Calls a worker. Errors: AttemptFailed, InvalidRequest when the worker says so."""
        deadline = self._generation.deadline
        call = method(message, timeout=min(seconds, max(deadline.remaining_seconds, 0.001)))
        await deadline.until_done(call, self._check)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._rpc_failure(error, callee) from error
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            raise self._failure("rpc_error", "the call was cancelled", {callee}) from None

    def _prefill_request(self) -> prefill_pb2.PrefillRequest:
        generation, reservation = self._generation, self._reservation
        request = generation.request
        message = prefill_pb2.PrefillRequest(
            request_id=request.request_id,
            epoch=reservation.epoch if reservation is not None else 1,
            token_ids=generation.token_ids,
            num_prompt_tokens=generation.num_prompt_tokens,
            sampling=request.sampling,
            top_logprobs=request.top_logprobs,
            stop_token_ids=request.stop_token_ids,
            priority=request.priority,
            conversation_returns=request.conversation_returns,
        )
        if reservation is not None:
            destination = message.destination
            destination.address = reservation.worker.address
            destination.worker_id = reservation.worker_id
            destination.reservation = reservation.number
            destination.router_id = self._router_id
            destination.num_cached_tokens = reservation.num_cached_tokens
        return message

    def _accept_first(self, reply: prefill_pb2.PrefillResponse) -> Tokens:
        generation = self._generation
        generation.queue_seconds += reply.queue_seconds
        generation.prefill_seconds += reply.prefill_seconds
        generation.record.prefilled(reply)
        self._phase = "transfer"
        self._silent_since = time.monotonic()
        tokens = Tokens(
            generation.num_generated,
            [reply.token_id],
            [reply.logprobs] if generation.request.top_logprobs is not None else [],
            common_pb2.FINISH_REASON_UNSPECIFIED,
        )
        generation.token_ids.append(reply.token_id)
        return tokens._replace(finish_reason=generation.finish_reason())

    def _accept(self, token_ids: list[int], logprobs: list[common_pb2.TokenLogprobs]) -> Tokens:
        generation, reservation = self._generation, self._reservation
        assert reservation is not None
        stream = reservation.stream
        if len(token_ids) > generation.num_remaining:
            raise self._failure(
                "wrong_end",
                f"the decode worker sent {len(token_ids)} tokens of {generation.num_remaining}",
                {reservation.worker_id},
            )
        index = generation.num_generated
        generation.token_ids.extend(token_ids)
        finish_reason = common_pb2.FINISH_REASON_UNSPECIFIED
        if stream.ended is not None:
            finish_reason = stream.ended
            if finish_reason != generation.finish_reason():
                # The client has not seen them, and never will.
                del generation.token_ids[len(generation.token_ids) - len(token_ids) :]
                raise self._failure(
                    "wrong_end",
                    f"the decode worker ended with reason {finish_reason} after"
                    f" {generation.num_generated} of {generation.max_tokens} tokens",
                    {reservation.worker_id},
                )
        return Tokens(index, token_ids, logprobs, finish_reason)

    def _check(self) -> None:
        """Raises AttemptFailed when the attempt cannot go on."""
        reservation = self._reservation
        if self._lost is not None:
            worker, reason = self._lost
            is_prefill = worker is self._prefill
            raise self._failure(
                reason,
                f"{'prefill' if is_prefill else 'decode'} worker at {worker.address} was lost:"
                f" {reason}",
                {self._prefill_id if is_prefill or reservation is None else reservation.worker_id},
                keeps_reservation=is_prefill,
            )
        stream = reservation.stream if reservation is not None else None
        if reservation is not None and stream is not None and stream.failure is not None:
            details = f"decode worker: {stream.failure_details}"
            raise self._failure(stream.failure, details, self._both_unless_decoding())

    def _rpc_failure(self, error: grpc.aio.AioRpcError, callee: WorkerId) -> Exception:
        status, details = error.code(), error.details() or ""
        pairs: Any = error.trailing_metadata() or ()
        metadata = {str(key): str(value) for key, value in pairs}
        told = from_status(status, details, metadata)
        if isinstance(told, InvalidRequest):
            return told
        if isinstance(told, Overloaded):
            return self._failure("overloaded", details, {callee}, error=told)
        if metadata.get(ERROR_KEY) == TransferFailed.__name__ and self._reservation is not None:
            blamed = self._both_unless_decoding()
            return self._failure("transfer_failed", details, blamed, error=told)
        if status is grpc.StatusCode.ABORTED:
            # The reservation failed before we heard of it: a new one may well succeed there.
            return self._failure("stale", details, set())
        reason: FailureReason = (
            "timeout" if status is grpc.StatusCode.DEADLINE_EXCEEDED else "rpc_error"
        )
        return self._failure(
            reason,
            f"worker {callee}: {status.name}: {details}",
            {callee},
            keeps_reservation=self._phase == "prefill",
        )

    def _both_unless_decoding(self) -> set[WorkerId]:
        """Whom to blame at the decode worker's end: either side may have broken a transfer."""
        assert self._reservation is not None
        decode_id = self._reservation.worker_id
        is_alone = self._prefill is None or self._phase == "decode"
        return {decode_id} if is_alone else {decode_id, self._prefill_id}

    def _failure(
        self,
        reason: FailureReason,
        details: str,
        blamed: set[WorkerId],
        *,
        keeps_reservation: bool = False,
        error: LengthwiseError | None = None,
    ) -> AttemptFailed:
        reservation = self._reservation
        return AttemptFailed(
            phase=self._phase,
            reason=reason,
            error=error or NoWorkerAvailable(f"{self._phase} failed: {details}"),
            blamed=frozenset(blamed),
            keeps_reservation=keeps_reservation
            and self._phase == "prefill"
            and reservation is not None
            and reservation.is_untouched,
        )
