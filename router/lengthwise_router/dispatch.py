"""Requests → workers: places a request, attempts it, and attempts it again elsewhere when a worker
fails, until it is done, its deadline passes, or it has failed too often.
"""

import logging
import time
from collections.abc import AsyncGenerator

from lengthwise.errors import NoWorkerAvailable
from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.placement import Strategy
from lengthwise_policy.types import Placement, PlacementRequest, RequestId, WorkerId
from lengthwise_router.attempt import Attempt, AttemptFailed
from lengthwise_router.config import RouterConfig
from lengthwise_router.fleet import Fleet
from lengthwise_router.generation import Generation, Tokens
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.reservation import Reservation
from lengthwise_router.wakeup import Pacer

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0

LOOK_AGAIN_SECONDS = 0.05
"""How often a request for which there is no worker looks again."""


class Dispatch:
    """What all requests of a router share on their way to the workers."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        strategy: Strategy,
        pacer: Pacer,
        metrics: RouterMetrics,
        router_id: str,
        config: RouterConfig,
    ) -> None:
        self._fleet = fleet
        self._strategy = strategy
        self._pacer = pacer
        self._metrics = metrics
        self._router_id = router_id
        self._config = config

    async def tokens(self, generation: Generation) -> AsyncGenerator[Tokens]:
        """The request's tokens in order, whatever happens to workers; the last have a finish
        reason.

        To be closed when not read to the end: that gives back what the request holds. Errors: any
        LengthwiseError.
        """
        reservation: Reservation | None = None
        excluded: frozenset[WorkerId] = frozenset()
        try:
            while True:
                placement = self._choose(generation, excluded, reservation)
                if isinstance(placement, NoCandidates):
                    if reservation is not None:
                        reservation.close()
                        reservation = None
                    placement = await self._place(generation, excluded)
                if reservation is None and placement.decode is not None:
                    decode = self._fleet.worker(placement.decode)
                    reservation = Reservation(decode, generation, self._pacer)
                try:
                    with self._attempt(generation, placement, reservation) as attempt:
                        tokens = await attempt.first_token()
                        yield tokens
                        while not tokens.finish_reason:
                            tokens = await attempt.next_tokens()
                            yield tokens
                    return
                except AttemptFailed as failure:
                    excluded |= failure.blamed
                    if reservation is not None and not failure.keeps_reservation:
                        reservation.close()
                        reservation = None
                    await self._pause(generation, failure)
        finally:
            if reservation is not None:
                reservation.close()

    def _attempt(
        self, generation: Generation, placement: Placement, reservation: Reservation | None
    ) -> Attempt:
        assert placement.prefill is not None
        return Attempt(
            generation=generation,
            prefill=self._fleet.worker(placement.prefill),
            reservation=reservation,
            router_id=self._router_id,
            config=self._config,
        )

    async def _place(self, generation: Generation, excluded: frozenset[WorkerId]) -> Placement:
        """Errors: NoWorkerAvailable when nobody could take the request for too long."""
        now = time.monotonic()
        give_up_at = now + self._config.no_worker_seconds
        while True:
            placement = self._choose(generation, excluded, None)
            if isinstance(placement, Placement):
                return placement
            if now >= give_up_at:
                raise NoWorkerAvailable(f"{placement}; waited {self._config.no_worker_seconds:g} s")
            now = await generation.patience.wait(now + LOOK_AGAIN_SECONDS)

    def _choose(
        self,
        generation: Generation,
        excluded: frozenset[WorkerId],
        reservation: Reservation | None,
    ) -> Placement | NoCandidates:
        """Asks the policy, now; a reservation keeps its decode worker."""
        request = PlacementRequest(
            request_id=RequestId(generation.request.request_id),
            num_tokens=len(generation.token_ids),
            max_new_tokens=generation.num_remaining,
            excluded=excluded,
            reserved_decode=reservation.worker_id if reservation is not None else None,
        )
        prefill, decode = self._fleet.views("prefill"), self._fleet.views("decode")
        try:
            placement = self._strategy(request, prefill, decode)
        except NoCandidates as error:
            return error
        # Reasons are "rule: numbers"; only the rule is one of a few.
        self._metrics.placements.labels(placement.reason.partition(":")[0]).inc()
        return placement

    async def _pause(self, generation: Generation, failure: AttemptFailed) -> None:
        """Counts a failure; waits a while before the next attempt, but not before the second."""
        self._metrics.retries.labels(failure.phase, failure.reason).inc()
        generation.retries += 1
        retries = generation.retries
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
            await generation.patience.wait(until)
