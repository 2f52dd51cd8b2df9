"""Which waiting request is next: by priority, then by what its tenant has had.

Each tenant has a virtual token counter (VTC, OSDI'24): the tokens served to it, output weighing
twice as much as input because it takes a step each. Within a priority the tenant with the least is
next, and of its requests the first that came. A tenant that was away is lifted to the least counter
of those present: absence earns no credit, and what it had too much of is not forgotten.

Invariant: the counters of two tenants that both always have requests waiting differ by at most one
prompt and the output of what they have running, however many requests either sends; and everything
is bounded, the tenants remembered included.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NewType

from lengthwise_policy.checks import require_at_least

Ticket = NewType("Ticket", int)
"""Names a request from its arrival on; later ones are larger."""

# Weights of AIBrix' vtc-basic router and of the VTC paper's evaluation.
INPUT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0

MAX_ABSENT_TENANTS = 4096


@dataclass(slots=True)
class _Present:
    """A tenant with requests that wait or run."""

    tokens: float
    requests: int


class TenantCounters:
    """What tenants have been served, in weighted tokens."""

    def __init__(self, max_absent: int = MAX_ABSENT_TENANTS) -> None:
        require_at_least("max_absent", max_absent, 0)
        self._max_absent = max_absent
        self._present: dict[str, _Present] = {}
        # Only those above the level: the others would be lifted to it. The oldest first.
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._level = 0.0  # counter of the last one present, while none is

    def arrived(self, tenant: str) -> None:
        """One more request of this tenant waits or runs."""
        present = self._present.get(tenant)
        if present is None:
            had = self._absent.pop(tenant, 0.0)
            least = min((each.tokens for each in self._present.values()), default=self._level)
            present = self._present[tenant] = _Present(tokens=max(had, least), requests=0)
        present.requests += 1

    def left(self, tenant: str) -> None:
        """One request of it is gone. KeyError if it has none."""
        present = self._present[tenant]
        present.requests -= 1
        if present.requests:
            return
        del self._present[tenant]
        if self._present:
            self._absent[tenant] = present.tokens
            if len(self._absent) > self._max_absent:
                self._absent.popitem(last=False)
        else:
            self._level = max(self._level, present.tokens)

    def charge(self, tenant: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Served to a tenant with requests present. KeyError if it has none."""
        self._present[tenant].tokens += INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * output_tokens

    def served(self, tenant: str) -> float:
        """Its counter. KeyError unless it has requests present."""
        return self._present[tenant].tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    tenant: str
    priority: int


class FairQueue:
    """Tickets that wait, in the order of the module's rules."""

    def __init__(self, counters: TenantCounters) -> None:
        self._counters = counters
        self._places: dict[Ticket, _Place] = {}
        # By priority, by tenant, in the order of arrival; no empty ones are kept.
        self._lines: dict[int, dict[str, OrderedDict[Ticket, None]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def push(self, ticket: Ticket, tenant: str, priority: int) -> None:
        """Tickets grow; the tenant has `arrived`."""
        self._places[ticket] = _Place(tenant=tenant, priority=priority)
        lines = self._lines.setdefault(priority, {})
        lines.setdefault(tenant, OrderedDict())[ticket] = None

    def pop(self) -> Ticket:
        """Takes out the next one. ValueError when none waits."""
        lines = self._lines[max(self._lines)]
        _, ticket = min(
            (self._counters.served(tenant), next(iter(line))) for tenant, line in lines.items()
        )
        self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """KeyError unless it waits."""
        place = self._places.pop(ticket)
        lines = self._lines[place.priority]
        line = lines[place.tenant]
        del line[ticket]
        if not line:
            del lines[place.tenant]
        if not lines:
            del self._lines[place.priority]

    def pop_least(self) -> Ticket:
        """Takes out the one to refuse when there is no place for all. ValueError when none waits.

        Of the lowest priority, the tenant with the most waiting, its last one: so a full queue is
        shared evenly, and one tenant alone may fill it.
        """
        lines = self._lines[min(self._lines)]
        _, ticket = max((len(line), next(reversed(line))) for line in lines.values())
        self.remove(ticket)
        return ticket

    def num_ahead(self, tenant: str, priority: int) -> int:
        """Tickets that go before one pushed now, if all cost the same: those of higher priority,
        the tenant's own, and as many of each other tenant."""
        ahead = 0
        for level, lines in self._lines.items():
            if level > priority:
                ahead += sum(map(len, lines.values()))
        lines = self._lines.get(priority, {})
        own = len(lines.get(tenant, ()))
        return ahead + sum(
            own if each == tenant else min(len(line), own + 1) for each, line in lines.items()
        )
