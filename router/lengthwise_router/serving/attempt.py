"""One attempt at a request, on one pair of workers: Reserve → Prefill → tokens; or on a decode
worker alone, which computes the prompt too: Reserve → tokens.

    phase      waits for                          ends early when
    reserve    blocks at the decode worker        a worker is lost, the call fails or times out
    prefill    the prefill worker's reply; alone  the same; the reservation failed
               the decode worker's first token
    transfer   the decode worker's first token    a worker is lost, the stream breaks, time out
    decode     its further tokens                 the decode worker is lost, the stream breaks,
                                                  no token for too long

Invariant: what has been generated stays generated. A failed attempt names the workers to blame, and
the next one goes on from there.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.blame import NO_BLAME, Blame
from lengthwise_policy.placement.outstanding import Placed, QueuedPrompt
from lengthwise_policy.placement.placement import Placement
from lengthwise_policy.types import WorkerId
from lengthwise_router.config import RouterConfig
from lengthwise_router.serving.generation import Generation, Tokens, WrongEnd
from lengthwise_router.serving.reservation import DecodeReservation
from lengthwise_router.serving.worker_pair import WorkerPair
from lengthwise_router.serving.worker_requests import prefill_request, reserve_request
from lengthwise_router.workers.calls import result_of
from lengthwise_router.workers.model_workers import ModelWorkers
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.errors import InvalidRequest, LengthwiseError


class WorkerAttempt:
    """The steps of one attempt, each taken once: `first_token`, then `next_tokens` to the end."""

    def __init__(
        self,
        generation: Generation,
        pair: WorkerPair,
        config: RouterConfig,
        workers: ModelWorkers,
        prompt: QueuedPrompt,
        placement: Placement,
    ) -> None:
        """`prompt`: as it will wait at the prefill worker, as far as known."""
        self._generation = generation
        self._pair = pair
        self._config = config
        self._workers = workers
        self._prompt = prompt
        self._most_tokens_ahead = placement.most_tokens_ahead
        self._most_requests = placement.most_requests
        self._silent_since = 0.0
        self._preemptions = 0  # recorded so far

    async def first_token(self) -> Tokens:
        """Reserves and prefills. Errors: AttemptFailed, InvalidRequest."""
        reservation = self._pair.reservation
        if reservation is not None and not reservation.is_empty:
            # Counted from now on: others that are placed before it has its blocks go elsewhere.
            with self._placed():
                await self._reserve(reservation)
        self._pair.phase = "prefill"
        if self._pair.prefill is None:
            self._silent_since = time.monotonic()
            return await self.next_tokens()
        return await self._prefill_at(self._pair.prefill)

    async def next_tokens(self) -> Tokens:
        """The tokens since the last call, as soon as there are any. Errors: AttemptFailed."""
        reservation = self._pair.reservation
        assert reservation is not None
        stream = reservation.stream
        now = time.monotonic()
        while True:
            self._take_reports(reservation)
            # What came before a failure is good.
            if stream.token_ids or stream.ended is not None:
                return self._take(reservation)
            self._pair.check()
            give_up_at = max(stream.alive_at, self._silent_since) + self._silence_seconds()
            if now >= give_up_at:
                raise self._pair.failure("timeout", "no tokens come", self._pair.transfer_blame())
            now = await self._generation.deadline.wait(give_up_at)

    async def _reserve(self, reservation: DecodeReservation) -> None:
        generation = self._generation
        began_at = time.monotonic()
        response = await self._call(
            reservation.worker.reserve,
            reserve_request(generation, reservation, self._most_requests),
            self._config.reserve_timeout_seconds,
            reservation.worker_id,
        )
        generation.reserved(time.monotonic() - began_at, response)
        if response.num_cached_tokens >= len(generation.token_ids):
            raise self._pair.failure(
                "malformed",
                f"the decode worker reported {response.num_cached_tokens} cached tokens, the prompt"
                f" has {len(generation.token_ids)} and the last is never cached",
                Blame.of(reservation.worker_id),
            )
        reservation.num_cached_tokens = response.num_cached_tokens
        reservation.is_empty = not reservation.is_local
        if reservation.is_local and response.HasField("requests"):
            reservation.became_remote(response.requests)
            raise self._pair.crowded(
                f"{response.requests} requests are at the decode worker, expected"
                f" {self._most_requests} at most beside a local prefill",
                NO_BLAME,
            )

    async def _prefill_at(self, worker: Worker) -> Tokens:
        generation, reservation = self._generation, self._pair.reservation
        if reservation is not None:
            reservation.is_empty = False
        with self._placed(), self._workers.queued(self._prompt, self._pair.leave):
            response = await self._call(
                worker.prefill,
                prefill_request(generation, reservation, self._most_tokens_ahead),
                self._config.prefill_timeout_seconds,
                self._pair.prefill_id,
            )
        if response.HasField("tokens_ahead"):
            worker.crowded(response.tokens_ahead)
            raise self._pair.crowded(
                f"{response.tokens_ahead} tokens wait at the prefill worker, expected"
                f" {self._most_tokens_ahead} at most",
                Blame.of(self._pair.prefill_id),
            )
        generation.prefilled(response)
        if reservation is None and generation.shared_prompt is not None:
            generation.shared_prompt.separate()  # no decode worker is needed
        self._pair.phase = "transfer"
        self._silent_since = time.monotonic()
        has_logprobs = generation.request.top_logprobs is not None
        tokens = generation.append(
            [response.token_id], [response.logprobs] if has_logprobs else [], None
        )
        return tokens._replace(finish_reason=generation.finish_reason)

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Counts the prompt at the prefill worker, where there is one."""
        worker = self._pair.prefill
        if worker is None:
            yield
            return
        tokens = self._prompt.residual_tokens
        short = length_class(tokens, worker.short_tokens) == "short"
        placed = Placed(tokens=tokens, short_tokens=tokens if short else 0)
        worker.place(placed)
        try:
            yield
        finally:
            worker.unplace(placed)

    async def _call(self, method: Any, message: Any, seconds: float, callee: WorkerId) -> Any:
        """Calls a worker. Errors: AttemptFailed, InvalidRequest when that is the response."""
        deadline = self._generation.deadline
        seconds = min(seconds, max(deadline.remaining_seconds, 0.001))
        span = self._generation.record.span
        call = method(message, timeout=seconds, metadata=span and span.headers())
        await deadline.until_done(call, self._pair.check)
        try:
            return await result_of(call)
        except InvalidRequest:
            raise
        except LengthwiseError as error:
            raise self._pair.call_failure(error, callee) from error

    def _take_reports(self, reservation: DecodeReservation) -> None:
        """Takes over what the stream reports beside tokens."""
        generation, stream = self._generation, reservation.stream
        if stream.local_prefill is not None:
            generation.prefilled(stream.local_prefill)
            stream.local_prefill = None
        if stream.last_row_at is not None:
            if self._pair.phase != "decode":
                generation.prompt_held_by(reservation.worker_id, reservation.block_size)
            if self._pair.phase == "transfer":
                # Its token may have been faster than the prefill worker's reply.
                seconds = max(stream.last_row_at - self._silent_since, 0.0)
                generation.record.transferred(seconds)
            self._pair.phase = "decode"
            if reservation.is_local:
                reservation.computed()
        while self._preemptions < stream.num_preemptions:
            self._preemptions += 1
            generation.record.preempted()

    def _take(self, reservation: DecodeReservation) -> Tokens:
        token_ids, logprobs = reservation.stream.take()
        try:
            return self._generation.append(token_ids, logprobs, reservation.stream.ended)
        except WrongEnd as error:
            raise self._pair.failure(
                "wrong_end",
                f"the decode worker {error}",
                Blame.of(reservation.worker_id),
            ) from error

    def _silence_seconds(self) -> float:
        """How long nothing may come, in this phase, of a request that computes."""
        config = self._config
        if self._pair.phase == "decode":
            return config.token_timeout_seconds
        is_local = self._pair.prefill is None
        return config.prefill_timeout_seconds if is_local else config.transfer_timeout_seconds
