"""Whether the router takes one more request, which waiting one is next, and when a refused client
should come back.

    ask ──Admit──▶ in flight ──finished──▶ gone        finished admits those that waited
     ├───Wait────▶ waiting ──(Admit from finished or cancel)──▶ in flight
     │                └──cancel, or displaced by a more urgent one──▶ gone
     └──Refuse

The requests in flight and those that wait are bounded; places go by priority, then by
what tenants have had (`fair_share`); none waits while a slot is free; and a refusal says when a
place is likely to be free instead of leaving every client to its own back-off.
"""

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from lengthwise_policy.admission.fair_share import FairQueue, TenantCounters, Ticket
from lengthwise_policy.checks import require_at_least

# Completions whose mean gap predicts the next ones: the fewer, the sooner the estimate follows a
# change; of independent completions, 32 still give the gap within 18 % (one standard deviation).
RECENT_COMPLETIONS = 33

# What a refused client is answered before two requests have ever completed.
FIRST_RETRY_AFTER_SECONDS = 1.0

AdmissionRule = Literal["free slot", "waited", "all slots taken"]

RefusalRule = Literal["prompt too long", "queue full", "latency objective"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """Limits of one router."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_requests_in_flight: int = 1024
    max_queued: int = 256  # requests that wait for one of those; 0: all others are refused
    max_prompt_tokens: int = 131_072
    # A request is refused at once when the time to its first token is predicted to be more than
    # so many times its objective: late for sure, it would only make others late. 0: never.
    shed_factor: float = 0.0
    min_retry_after_seconds: float = 0.1
    max_retry_after_seconds: float = 30.0

    def __post_init__(self) -> None:
        require_at_least("max_requests_in_flight", self.max_requests_in_flight, 1)
        require_at_least("max_queued", self.max_queued, 0)
        require_at_least("max_prompt_tokens", self.max_prompt_tokens, 1)
        require_at_least("shed_factor", self.shed_factor, 0.0)
        require_at_least("min_retry_after_seconds", self.min_retry_after_seconds, 0.0)
        require_at_least(
            "max_retry_after_seconds (not below min_retry_after_seconds)",
            self.max_retry_after_seconds,
            self.min_retry_after_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRequest:
    """What admission needs to know of a request."""

    num_tokens: int  # of the prompt
    tenant: str = ""  # empty is a tenant like any other
    priority: int = 0  # the higher, the earlier
    # To the first token once it is admitted, as placement predicts it now; 0 when unknown.
    predicted_ttft_seconds: float = 0.0
    ttft_objective_seconds: float = inf  # the objective of its length class


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """The request is in flight; `Admission.finished` has to follow."""

    ticket: Ticket
    rule: AdmissionRule
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The request is not taken. `retry_after_seconds` is None when it never will be."""

    rule: RefusalRule
    reason: str
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Displaced:
    """A request that waited and is refused now, for another's sake. Nothing has to follow."""

    ticket: Ticket
    refusal: Refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The request waits: an Admit of this ticket comes from a later `finished` or `cancel`, or a
    Displaced from a later `ask`; or its caller gives up and calls `cancel`."""

    ticket: Ticket
    rule: AdmissionRule
    reason: str
    displaced: Displaced | None  # that lost its place to this one


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    demand: AdmissionRequest
    at: float


class Admission:
    """Counts the requests in one router, and keeps the line of those that wait.

    Refused clients get places in an imaginary line that moves by one with each completion: the k-th
    of them is asked to come back after k completions, so that they do not all return at once.
    """

    def __init__(self, policy: AdmissionPolicy) -> None:
        self._policy = policy
        self._counters = TenantCounters()
        self._queue = FairQueue(self._counters)
        self._waiting: dict[Ticket, _Asked] = {}
        self._in_flight: dict[Ticket, AdmissionRequest] = {}
        self._last_ticket = 0
        self._refused_in_line = 0
        self._completed_at: deque[float] = deque(maxlen=RECENT_COMPLETIONS)

    @property
    def in_flight(self) -> int:
        """Requests admitted and not finished."""
        return len(self._in_flight)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission; none do while a slot is free."""
        return len(self._queue)

    def ask(self, demand: AdmissionRequest, now: float) -> Admit | Wait | Refuse:
        """Takes a request, lets it wait, or refuses it."""
        policy = self._policy
        if demand.num_tokens > policy.max_prompt_tokens:
            return Refuse(
                rule="prompt too long",
                reason=f"prompt of {demand.num_tokens} tokens, at most {policy.max_prompt_tokens} "
                "are accepted; shorten it",
                retry_after_seconds=None,
            )
        late = self._late(demand, now)
        if late is not None:
            return late
        self._last_ticket += 1
        ticket = Ticket(self._last_ticket)
        self._counters.arrived(demand.tenant)
        if len(self._in_flight) < policy.max_requests_in_flight:
            return self._admit(ticket, demand, "free slot")
        return self._wait(ticket, _Asked(demand=demand, at=now))

    def finished(self, ticket: Ticket, now: float) -> tuple[Admit, ...]:
        """An admitted request has left, however it ended.

        Returns those that waited and are admitted now. RuntimeError unless it is in flight.
        """
        demand = self._in_flight.pop(ticket, None)
        if demand is None:
            raise RuntimeError(
                f"finished: request {ticket} is not in flight; call it once per admitted one"
            )
        self._counters.left(demand.tenant)
        self._refused_in_line = max(0, self._refused_in_line - 1)
        self._completed_at.append(now)
        return self._admit_next(now)

    def cancel(self, ticket: Ticket, now: float) -> tuple[Admit, ...]:
        """The caller of a waiting request gives up, whatever became of it meanwhile.

        If it was admitted and its caller has not noticed yet, this is `finished`: others may be
        admitted. If it was displaced, nothing happens.
        """
        if ticket in self._in_flight:
            return self.finished(ticket, now)
        asked = self._waiting.pop(ticket, None)
        if asked is not None:
            self._queue.remove(ticket)
            self._counters.left(asked.demand.tenant)
        return ()

    def charge(self, ticket: Ticket, output_tokens: int) -> None:
        """So many tokens were generated for a request in flight, in time for the next decisions.

        Prompts are charged on admission. RuntimeError unless it is in flight.
        """
        demand = self._in_flight.get(ticket)
        if demand is None:
            raise RuntimeError(f"charge: request {ticket} is not in flight")
        self._counters.charge(demand.tenant, output_tokens=output_tokens)

    def _admit(
        self, ticket: Ticket, demand: AdmissionRequest, rule: AdmissionRule, waited: str = ""
    ) -> Admit:
        self._in_flight[ticket] = demand
        self._counters.charge(demand.tenant, input_tokens=demand.num_tokens)
        return Admit(
            ticket=ticket,
            rule=rule,
            reason=f"{waited}{len(self._in_flight)} of {self._policy.max_requests_in_flight} "
            "requests in flight",
        )

    def _admit_next(self, now: float) -> tuple[Admit, ...]:
        admitted = []
        while len(self._queue) and len(self._in_flight) < self._policy.max_requests_in_flight:
            ticket = self._queue.pop()
            asked = self._waiting.pop(ticket)
            waited = f"waited {now - asked.at:.3f} s; "
            admitted.append(self._admit(ticket, asked.demand, "waited", waited))
        return tuple(admitted)

    def _wait(self, ticket: Ticket, asked: _Asked) -> Wait | Refuse:
        self._queue.push(ticket, asked.demand.tenant, asked.demand.priority)
        self._waiting[ticket] = asked
        displaced = None
        if len(self._queue) > self._policy.max_queued:
            least = self._queue.pop_least()
            self._counters.left(self._waiting.pop(least).demand.tenant)
            refusal = self._full(asked.at)
            if least == ticket:
                return refusal
            displaced = Displaced(ticket=least, refusal=refusal)
        return Wait(
            ticket=ticket,
            rule="all slots taken",
            reason=f"{len(self._in_flight)} requests in flight, the limit is "
            f"{self._policy.max_requests_in_flight}; {len(self._queue)} wait",
            displaced=displaced,
        )

    def _full(self, now: float) -> Refuse:
        self._refused_in_line += 1
        gap = self._completion_gap(now)
        wait = FIRST_RETRY_AFTER_SECONDS if gap is None else gap * self._refused_in_line
        if gap and wait > self._policy.max_retry_after_seconds:
            # No client is given a later place, so none is in it: a storm leaves no long line
            # behind.
            self._refused_in_line = int(self._policy.max_retry_after_seconds / gap) + 1
        return Refuse(
            rule="queue full",
            reason=f"{len(self._in_flight)} requests in flight, the limit is "
            f"{self._policy.max_requests_in_flight}; {len(self._queue)} wait, the limit is "
            f"{self._policy.max_queued}",
            retry_after_seconds=self._clipped(wait),
        )

    def _late(self, demand: AdmissionRequest, now: float) -> Refuse | None:
        """A refusal if the first token would come far too late."""
        policy, objective = self._policy, demand.ttft_objective_seconds
        if not policy.shed_factor:
            return None
        limit = policy.shed_factor * objective
        predicted = demand.predicted_ttft_seconds
        if len(self._in_flight) >= policy.max_requests_in_flight:
            ahead = self._queue.num_ahead(demand.tenant, demand.priority)
            predicted += (self._completion_gap(now) or 0.0) * (ahead + 1)
        if predicted <= limit:
            return None
        return Refuse(
            rule="latency objective",
            reason=f"first token predicted after {predicted:.3f} s, more than "
            f"{policy.shed_factor:g} times the objective of {objective:g} s",
            # Work ahead shrinks by a second each second: by then it is within the limit.
            retry_after_seconds=self._clipped(predicted - limit),
        )

    def _completion_gap(self, now: float) -> float | None:
        """Seconds between completions; None before two are known."""
        if len(self._completed_at) < 2:
            return None
        first, last = self._completed_at[0], self._completed_at[-1]
        # When nothing completes any more, the silence is the better estimate of the gap.
        return max((last - first) / (len(self._completed_at) - 1), now - last)

    def _clipped(self, seconds: float) -> float:
        return min(
            max(seconds, self._policy.min_retry_after_seconds), self._policy.max_retry_after_seconds
        )
