"""Requests → workers: places a request, attempts it, and attempts it again elsewhere when a worker
or a link fails, until it is done, its deadline passes, or there has been no way for too long."""

import logging
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import NamedTuple

from lengthwise_policy.errors import LacksCapability, NoCandidates
from lengthwise_policy.placement.attempts import Attempts
from lengthwise_policy.placement.blame import NO_BLAME, Blame, Standing
from lengthwise_policy.placement.capacity import exceeded_capacity, most_new_tokens
from lengthwise_policy.placement.outstanding import QueuedPrompt
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRequest
from lengthwise_policy.placement.policy import Strategy
from lengthwise_policy.placement.shared_prompt import place_beside
from lengthwise_policy.placement.strategies import make_strategy
from lengthwise_policy.spreading import OtherRouters
from lengthwise_policy.types import WorkerId
from lengthwise_router.config import RouterConfig
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.attempt import WorkerAttempt
from lengthwise_router.serving.calls.shared_prompt import SharedPrompt
from lengthwise_router.serving.failures import AttemptFailed
from lengthwise_router.serving.generation import Generation, Tokens
from lengthwise_router.serving.reservation import DecodeReservation
from lengthwise_router.serving.worker_pair import WorkerPair
from lengthwise_router.workers.model_workers import ModelWorkers
from lengthwise_wire.capabilities import PREFIX_CACHING
from lengthwise_wire.errors import (
    LengthwiseError,
    NotSupported,
    NoWorkerAvailable,
    PromptTooLong,
)

logger = logging.getLogger(__name__)


class _Choice(NamedTuple):
    """A placement, and what was known when it was made."""

    request: PlacementRequest
    placement: Placement

    @property
    def standing(self) -> Standing:
        return self.request.blame.standing(self.placement.prefill, self.placement.decode)


class Dispatch:
    """What all requests for a model share on their way to the workers."""

    def __init__(
        self,
        *,
        workers: ModelWorkers,
        strategy: Strategy,
        metrics: RouterMetrics,
        config: RouterConfig,
    ) -> None:
        self._workers = workers
        self._strategy = strategy
        self._forecast = make_strategy("predicted_ttft", config.placement, random.random)
        self._metrics = metrics
        self._config = config

    async def tokens(self, generation: Generation) -> AsyncGenerator[Tokens]:
        """The request's tokens in order, whatever happens to workers; the last have a finish
        reason.

        To be closed when not read to the end: that gives back what the request holds. Errors: any
        LengthwiseError.
        """
        reservation: DecodeReservation | None = None
        attempts = Attempts(
            max_attempts=self._config.max_attempts, patience_seconds=self._config.no_worker_seconds
        )
        last: AttemptFailed | None = None
        try:
            while True:
                choice = None
                if reservation is not None:
                    choice = await self._choose_prefill(generation, attempts, reservation)
                    if choice is None:
                        reservation.close()
                        reservation = None
                if choice is None and generation.shared_prompt is not None:
                    choice = await self._join(generation, generation.shared_prompt, attempts)
                if choice is None:
                    choice = await self._choose_path(generation, attempts, last)
                placement = choice.placement
                self._metrics.placements(placement.rule).inc()
                if reservation is None and placement.decode is not None:
                    reservation = self._reservation(generation, choice, placement.decode)
                generation.placed(placement)
                try:
                    with self._pair(generation, placement, reservation) as pair:
                        attempt = self._attempt(generation, choice, pair)
                        tokens = await attempt.first_token()
                        generation.needs |= pair.kept_capabilities
                        yield tokens
                        while not tokens.finish_reason:
                            tokens = await attempt.next_tokens()
                            attempts.progressed()
                            yield tokens
                    return
                except AttemptFailed as failure:
                    last = failure
                    generation.record.failed(failure)
                    if reservation is not None and not failure.keeps_reservation:
                        reservation.close()
                        reservation = None
                    self._count(generation, failure)
                    now, lost, busy = time.monotonic(), failure.is_loss, failure.is_busy
                    if not attempts.failed(failure.blame, now, lost=lost, busy=busy):
                        raise failure.error from failure
        finally:
            if reservation is not None:
                reservation.close()
            if generation.shared_prompt is not None:
                generation.shared_prompt.left(generation.deadline)

    async def check_capacity(self, generation: Generation) -> None:
        """Errors: PromptTooLong for what could never be placed, however long it waited."""
        if self._workers.is_complete:  # what is not connected yet may be larger
            self._check_capacity(await self._request(generation, NO_BLAME, None))

    async def preview(self, generation: Generation) -> Placement | None:
        """Where the request would be placed now for the sake of its first token; None while no
        worker could take it. No strategy's state changes, and nothing is counted."""
        request = await self._request(generation, NO_BLAME, None)
        try:
            return self._forecast(self._input(request))
        except NoCandidates:
            return None

    def _reservation(
        self, generation: Generation, choice: _Choice, worker_id: WorkerId
    ) -> DecodeReservation:
        return DecodeReservation(
            self._workers.worker(worker_id),
            generation,
            is_local=choice.placement.prefill is None,
            residual_tokens=choice.request.residual_tokens(worker_id),
        )

    def _pair(
        self, generation: Generation, placement: Placement, reservation: DecodeReservation | None
    ) -> WorkerPair:
        prefill = self._workers.worker(placement.prefill) if placement.prefill is not None else None
        return WorkerPair(prefill, reservation, generation.deadline.wakeup)

    def _attempt(self, generation: Generation, choice: _Choice, pair: WorkerPair) -> WorkerAttempt:
        prompt = QueuedPrompt.of(choice.request, pair.prefill_id)
        return WorkerAttempt(
            generation, pair, self._config, self._workers, prompt, choice.placement
        )

    async def _join(
        self, generation: Generation, prompt: SharedPrompt, attempts: Attempts
    ) -> _Choice | None:
        """A place beside another sample, where the prompt's KV is; None: this one has it computed
        itself."""
        holder = await prompt.turn(generation.deadline)
        if holder is None:
            return None
        request = await self._request(generation, attempts.blame, None)
        request = replace(
            request,
            cached_tokens={**request.cached_tokens, holder: prompt.held_tokens},
            needs=request.needs | {PREFIX_CACHING},
        )
        placement = place_beside(request, self._workers.views()[1], holder)
        if placement is None:
            prompt.separate()
            return None
        return _Choice(request, placement)

    async def _choose_prefill(
        self, generation: Generation, attempts: Attempts, reservation: DecodeReservation
    ) -> _Choice | None:
        """Another prefill worker to fill a reservation; None where none is left that has not failed
        this request: without the reservation there may be a better path."""
        choice = await self._choose(generation, attempts.blame, reservation)
        if isinstance(choice, NoCandidates) or choice.placement.prefill is None:
            return None
        return choice if choice.standing < Standing.FAILED else None

    async def _choose_path(
        self, generation: Generation, attempts: Attempts, last: AttemptFailed | None
    ) -> _Choice:
        """The best path, as soon as there is one that an attempt may begin on.

        Errors: PromptTooLong where no worker is large enough; when there has been no path for too
        long, why the `last` attempt failed; where there are no workers, NotSupported if those there
        are too old for the request, NoWorkerAvailable otherwise.
        """
        wakeup = generation.deadline.wakeup
        with self._workers.notifying(wakeup):
            while True:
                choice = await self._choose(generation, attempts.blame, None)
                now = time.monotonic()
                standing = choice.standing if isinstance(choice, _Choice) else None
                begin_at = attempts.begin_at(standing, now)
                if isinstance(choice, NoCandidates):
                    generation.deadline.reason = str(choice)
                    if begin_at is None or self._workers.is_complete:
                        if self._limit(generation):
                            continue
                        self._check_capacity(await self._request(generation, NO_BLAME, None))
                if begin_at is None:
                    raise self._refusal(choice, last)
                if isinstance(choice, _Choice) and begin_at <= now:
                    return choice
                await generation.deadline.wait(begin_at)

    def _refusal(
        self, choice: _Choice | NoCandidates, last: AttemptFailed | None
    ) -> LengthwiseError:
        """Why a request is not attempted any more."""
        if isinstance(choice, _Choice):
            assert last is not None  # the path has failed
            return last.error
        kind = NotSupported if isinstance(choice, LacksCapability) else NoWorkerAvailable
        return kind(f"{choice}; waited {self._config.no_worker_seconds:g} s")

    def _limit(self, generation: Generation) -> bool:
        """Holds an open request to what the largest decode worker of now can hold; returns whether
        that changed its limit."""
        if generation.request.max_tokens is not None:
            return False
        _, decode = self._workers.views()
        most = most_new_tokens(len(generation.token_ids), generation.needs, decode)
        return most is not None and generation.limit(most)

    def _check_capacity(self, request: PlacementRequest) -> None:
        exceeded = exceeded_capacity(
            request, *self._workers.views(), local_prefill=self._config.local_prefill
        )
        if exceeded is not None:
            raise PromptTooLong(f"prompt and max_tokens: got {exceeded}")

    async def _choose(
        self, generation: Generation, blame: Blame, reservation: DecodeReservation | None
    ) -> _Choice | NoCandidates:
        """Asks the policy, now; a reservation keeps its decode worker. What is returned holds until
        the next await."""
        request = await self._request(generation, blame, reservation)
        try:
            return _Choice(request, self._strategy(self._input(request)))
        except NoCandidates as error:
            return error

    def _input(self, request: PlacementRequest) -> PlacementInput:
        prefill, decode = self._workers.views()
        return PlacementInput(
            request=request,
            prefill=prefill,
            decode=decode,
            now=time.monotonic(),
            others=OtherRouters(self._workers.other_routers, random.random),
        )

    async def _request(
        self,
        generation: Generation,
        blame: Blame,
        reservation: DecodeReservation | None,
    ) -> PlacementRequest:
        cached_tokens = await self._workers.prefixes.cached_tokens(
            generation.token_ids, generation.prefix
        )
        if reservation is None and not generation.has_begun:
            self._limit(generation)  # later only where there is no path otherwise
        return PlacementRequest(
            num_tokens=len(generation.token_ids),
            max_new_tokens=generation.num_remaining,
            blame=blame,
            reserved_decode=reservation.worker_id if reservation is not None else None,
            cached_tokens=cached_tokens,
            needs=generation.needs,
        )

    def _count(self, generation: Generation, failure: AttemptFailed) -> None:
        self._metrics.retries(failure.phase, failure.reason).inc()
        if failure.reason == "crowded":
            return  # nothing has gone wrong
        generation.timings.retries += 1
        generation.deadline.reason = f"attempt failed in phase {failure.phase}: {failure.error}"
        logger.warning(
            "attempt %d failed in phase %s, %s: %s",
            *(generation.timings.retries, failure.phase, failure.reason, failure.error),
            extra={"request_id": generation.request.request_id},
        )
