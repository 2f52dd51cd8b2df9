"""Where requests wait for admission, and are notified of its decision.

A waiting request costs a place in the queue and nothing else. Its caller's stream is kept alive,
its deadline holds, and a caller that leaves gives its place up at once.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from lengthwise_policy.admission.admission import Admission, AdmissionRequest, Admit, Refuse, Wait
from lengthwise_policy.admission.fair_share import Ticket
from lengthwise_policy.length_class import length_class
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.placement import Placement
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.generation import Generation
from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_wire.errors import Overloaded, PromptTooLong


@dataclass(slots=True)
class _Waiting:
    """A request in the queue."""

    wakeup: Wakeup
    decision: Admit | Refuse | None = None


class AdmissionGate:
    """Admission, for requests that can wait."""

    def __init__(
        self,
        *,
        admission: Admission,
        metrics: RouterMetrics,
        objectives: Objectives,
        preview: Callable[[Generation], Awaitable[Placement | None]] | None,
    ) -> None:
        """`preview`: where a request would be placed now; None where no request is refused for
        what is predicted of it."""
        self._admission = admission
        self._metrics = metrics
        self._objectives = objectives
        self._preview = preview
        self._waiting: dict[Ticket, _Waiting] = {}

    @property
    def in_flight(self) -> int:
        """Requests that were admitted and have not left."""
        return self._admission.in_flight

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission."""
        return self._admission.num_waiting

    async def enter(self, generation: Generation) -> Ticket:
        """Returns once the request may go on; `leave` has to follow.

        Errors: Overloaded, PromptTooLong, DeadlineExceeded.
        """
        demand = await self._demand(generation)
        asked_at = time.monotonic()
        decision = self._admission.ask(demand, asked_at)
        if isinstance(decision, Wait):
            decision = await self._wait(decision, generation, asked_at)
        seconds = time.monotonic() - asked_at
        generation.record.admission(decision.reason, seconds)
        if isinstance(decision, Refuse):
            self._metrics.refusals(decision.rule).inc()
            if decision.retry_after_seconds is None:
                raise PromptTooLong(decision.reason)
            raise Overloaded(decision.reason, decision.retry_after_seconds)
        self._metrics.admission_seconds.observe(seconds)
        self._metrics.prompt_tokens.observe(generation.num_prompt_tokens)
        return decision.ticket

    def generated(self, ticket: Ticket, num_tokens: int) -> None:
        """Tokens were generated: they count for the request's tenant."""
        self._admission.charge(ticket, num_tokens)

    def leave(self, ticket: Ticket) -> None:
        """The request is over, however it ended."""
        self._notify_admitted(self._admission.finished(ticket, time.monotonic()))

    async def _wait(self, wait: Wait, generation: Generation, asked_at: float) -> Admit | Refuse:
        waiting = self._waiting[wait.ticket] = _Waiting(generation.deadline.wakeup)
        generation.record.admission(wait.reason, 0.0)
        generation.deadline.reason = wait.reason
        if wait.displaced is not None:
            self._notify(wait.displaced.ticket, wait.displaced.refusal)
        try:
            while waiting.decision is None:
                await generation.deadline.wait()
        except BaseException:
            now = time.monotonic()
            generation.record.admission(wait.reason, now - asked_at)
            # It may have been admitted while its caller left.
            self._notify_admitted(self._admission.cancel(wait.ticket, now))
            raise
        finally:
            del self._waiting[wait.ticket]
        return waiting.decision

    def _notify_admitted(self, admitted: Iterable[Admit]) -> None:
        for admit in admitted:
            self._notify(admit.ticket, admit)

    def _notify(self, ticket: Ticket, decision: Admit | Refuse) -> None:
        waiting = self._waiting[ticket]
        waiting.decision = decision
        waiting.wakeup.ring()

    async def _demand(self, generation: Generation) -> AdmissionRequest:
        request = generation.request
        demand = AdmissionRequest(
            num_tokens=0 if request.choice else generation.num_prompt_tokens,
            tenant=request.tenant,
            priority=request.priority,
        )
        if request.choice:
            return demand  # the prompt is its first choice's
        placement = await self._preview(generation) if self._preview is not None else None
        candidate = placement.chosen if placement is not None else None
        if candidate is None:
            return demand
        name = length_class(candidate.residual_tokens)
        return replace(
            demand,
            predicted_ttft_seconds=candidate.ttft_seconds,
            ttft_objective_seconds=self._objectives.ttft_seconds(name),
        )
