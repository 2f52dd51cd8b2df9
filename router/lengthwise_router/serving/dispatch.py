"""Requests → workers: places a request, attempts it, and attempts it again elsewhere when a worker
fails, until it is done, its deadline passes, or it has failed too often."""

import logging
import random
import time
from collections.abc import AsyncGenerator
from typing import NamedTuple

from lengthwise_policy.errors import LacksCapability, NoCandidates
from lengthwise_policy.placement.capacity import exceeded_capacity
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRequest
from lengthwise_policy.placement.policy import Strategy
from lengthwise_policy.placement.strategies import make_strategy
from lengthwise_policy.types import WorkerId
from lengthwise_router.config import RouterConfig
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.attempt import WorkerAttempt
from lengthwise_router.serving.failures import AttemptFailed
from lengthwise_router.serving.generation import Generation, Tokens
from lengthwise_router.serving.reservation import DecodeReservation
from lengthwise_router.serving.worker_pair import WorkerPair
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.pacer import Pacer
from lengthwise_wire.errors import NotSupported, NoWorkerAvailable, PromptTooLong

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0

RETRY_PLACEMENT_SECONDS = 0.05
"""Between two placements of a request for which there is no worker."""


class _Choice(NamedTuple):
    """A placement, and what was known when it was made."""

    request: PlacementRequest
    placement: Placement


class Dispatch:
    """What all requests of a router share on their way to the workers."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        strategy: Strategy,
        pacer: Pacer,
        metrics: RouterMetrics,
        config: RouterConfig,
    ) -> None:
        self._fleet = fleet
        self._strategy = strategy
        self._forecast = make_strategy("predicted_ttft", config.placement, random.random)
        self._pacer = pacer
        self._metrics = metrics
        self._config = config

    async def tokens(self, generation: Generation) -> AsyncGenerator[Tokens]:
        """The request's tokens in order, whatever happens to workers; the last have a finish
        reason.

        To be closed when not read to the end: that gives back what the request holds. Errors: any
        LengthwiseError.
        """
        reservation: DecodeReservation | None = None
        excluded: frozenset[WorkerId] = frozenset()
        try:
            while True:
                choice = await self._choose(generation, excluded, reservation)
                # A reservation made for a prefill worker to fill is of no use without one.
                if reservation is not None and (
                    isinstance(choice, NoCandidates) or choice.placement.prefill is None
                ):
                    reservation.close()
                    reservation = None
                if isinstance(choice, NoCandidates):
                    choice = await self._wait_for_choice(generation, excluded)
                placement = choice.placement
                if reservation is None and placement.decode is not None:
                    reservation = self._reservation(generation, choice, placement.decode)
                generation.placed(placement)
                try:
                    with self._pair(generation, placement, reservation) as pair:
                        attempt = self._attempt(generation, choice, pair)
                        tokens = await attempt.first_token()
                        yield tokens
                        while not tokens.finish_reason:
                            tokens = await attempt.next_tokens()
                            yield tokens
                    return
                except AttemptFailed as failure:
                    excluded |= failure.blamed
                    generation.record.failed(failure)
                    if reservation is not None and not failure.keeps_reservation:
                        reservation.close()
                        reservation = None
                    await self._pause(generation, failure)
        finally:
            if reservation is not None:
                reservation.close()

    async def check_capacity(self, generation: Generation) -> None:
        """Errors: PromptTooLong for what could never be placed, however long it waited."""
        if self._fleet.is_complete:  # what is not connected yet may be larger
            self._check_capacity(await self._request(generation, frozenset(), None))

    async def preview(self, generation: Generation) -> Placement | None:
        """Where the request would be placed now for the sake of its first token; None while no
        worker could take it. No strategy's state changes, and nothing is counted."""
        request = await self._request(generation, frozenset(), None)
        try:
            return self._forecast(self._input(request))
        except NoCandidates:
            return None

    def _reservation(
        self, generation: Generation, choice: _Choice, worker_id: WorkerId
    ) -> DecodeReservation:
        return DecodeReservation(
            self._fleet.worker(worker_id),
            generation,
            self._pacer,
            is_local=choice.placement.prefill is None,
            residual_tokens=choice.request.residual_tokens(worker_id),
        )

    def _pair(
        self, generation: Generation, placement: Placement, reservation: DecodeReservation | None
    ) -> WorkerPair:
        prefill = self._fleet.worker(placement.prefill) if placement.prefill is not None else None
        return WorkerPair(prefill, reservation, generation.deadline.wakeup)

    def _attempt(self, generation: Generation, choice: _Choice, pair: WorkerPair) -> WorkerAttempt:
        residual_tokens = choice.request.residual_tokens(pair.prefill_id)
        return WorkerAttempt(generation, pair, self._config, residual_tokens=residual_tokens)

    async def _wait_for_choice(
        self, generation: Generation, excluded: frozenset[WorkerId]
    ) -> _Choice:
        """Errors: when no worker could take the request for too long, NotSupported where those
        there are too old for it, NoWorkerAvailable otherwise; PromptTooLong where none is large
        enough."""
        now = time.monotonic()
        give_up_at = now + self._config.no_worker_seconds
        while True:
            choice = await self._choose(generation, excluded, None)
            if isinstance(choice, _Choice):
                return choice
            generation.deadline.reason = str(choice)
            if now >= give_up_at or self._fleet.is_complete:
                self._check_capacity(await self._request(generation, frozenset(), None))
            if now >= give_up_at:
                refusal = NotSupported if isinstance(choice, LacksCapability) else NoWorkerAvailable
                raise refusal(f"{choice}; waited {self._config.no_worker_seconds:g} s")
            now = await generation.deadline.wait(now + RETRY_PLACEMENT_SECONDS)

    def _check_capacity(self, request: PlacementRequest) -> None:
        exceeded = exceeded_capacity(
            request, *self._fleet.views(), local_prefill=self._config.local_prefill
        )
        if exceeded is not None:
            raise PromptTooLong(f"prompt and max_tokens: got {exceeded}")

    async def _choose(
        self,
        generation: Generation,
        excluded: frozenset[WorkerId],
        reservation: DecodeReservation | None,
    ) -> _Choice | NoCandidates:
        """Asks the policy, now; a reservation keeps its decode worker. What is returned holds until
        the next await."""
        request = await self._request(generation, excluded, reservation)
        try:
            placement = self._strategy(self._input(request))
        except NoCandidates as error:
            return error
        self._metrics.placements.labels(placement.rule).inc()
        return _Choice(request, placement)

    def _input(self, request: PlacementRequest) -> PlacementInput:
        prefill, decode = self._fleet.views()
        return PlacementInput(request=request, prefill=prefill, decode=decode, now=time.monotonic())

    async def _request(
        self,
        generation: Generation,
        excluded: frozenset[WorkerId],
        reservation: DecodeReservation | None,
    ) -> PlacementRequest:
        cached_tokens = await self._fleet.prefixes.cached_tokens(
            generation.token_ids, generation.prefix
        )
        return PlacementRequest(
            num_tokens=len(generation.token_ids),
            max_new_tokens=generation.num_remaining,
            excluded=excluded,
            reserved_decode=reservation.worker_id if reservation is not None else None,
            cached_tokens=cached_tokens,
            needs=generation.request.needs,
        )

    async def _pause(self, generation: Generation, failure: AttemptFailed) -> None:
        """Counts a failure; waits a while before the next attempt, but not before the second."""
        self._metrics.retries.labels(failure.phase, failure.reason).inc()
        generation.timings.retries += 1
        generation.deadline.reason = f"attempt failed in phase {failure.phase}: {failure.error}"
        retries = generation.timings.retries
        logger.warning(
            "attempt %d failed in phase %s, %s: %s",
            *(retries, failure.phase, failure.reason, failure.error),
            extra={"request_id": generation.request.request_id},
        )
        if retries >= self._config.max_attempts:
            raise failure.error
        if retries == 1:
            return
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (retries - 2), MAX_PAUSE_SECONDS)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            await generation.deadline.wait(until)
