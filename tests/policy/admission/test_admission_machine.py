"""Admission under any order of calls: no request leaks a slot, overtakes a priority or is lost."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lengthwise_policy.admission.admission import (
    Admission,
    AdmissionPolicy,
    AdmissionRequest,
    Admit,
    Refuse,
    Wait,
)
from lengthwise_policy.admission.fair_share import Ticket

POLICY = AdmissionPolicy(max_requests_in_flight=3, max_queued=4)


class AdmissionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(POLICY)
        self.now = 0.0
        self.running: dict[Ticket, AdmissionRequest] = {}
        self.waiting: dict[Ticket, AdmissionRequest] = {}
        self.gone: list[Ticket] = []  # displaced or cancelled

    def admitted(self, admits: tuple[Admit, ...]) -> None:
        for admit in admits:
            demand = self.waiting.pop(admit.ticket)
            assert all(demand.priority >= other.priority for other in self.waiting.values())
            assert all(
                admit.ticket < ticket
                for ticket, other in self.waiting.items()
                if (other.tenant, other.priority) == (demand.tenant, demand.priority)
            )
            self.running[admit.ticket] = demand

    @rule(tokens=st.integers(1, 1000), tenant=st.sampled_from("abc"), priority=st.integers(-1, 1))
    def ask(self, tokens: int, tenant: str, priority: int) -> None:
        demand = AdmissionRequest(num_tokens=tokens, tenant=tenant, priority=priority)
        answer = self.admission.ask(demand, self.now)
        match answer:
            case Admit(ticket=ticket):
                assert len(self.running) < POLICY.max_requests_in_flight
                self.running[ticket] = demand
            case Wait(ticket=ticket, displaced=displaced):
                assert len(self.running) == POLICY.max_requests_in_flight
                assert (displaced is not None) == (len(self.waiting) == POLICY.max_queued)
                if displaced is not None:
                    least = self.waiting.pop(displaced.ticket)
                    self.gone.append(displaced.ticket)
                    assert least.priority <= demand.priority
                self.waiting[ticket] = demand
            case Refuse():
                assert len(self.waiting) == POLICY.max_queued
                assert all(other.priority >= priority for other in self.waiting.values())

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0), output=st.integers(0, 500))
    def finish(self, pick: int, output: int) -> None:
        ticket = list(self.running)[pick % len(self.running)]
        self.admission.charge(ticket, output)
        del self.running[ticket]
        self.admitted(self.admission.finished(ticket, self.now))

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0))
    def give_up_waiting(self, pick: int) -> None:
        ticket = list(self.waiting)[pick % len(self.waiting)]
        del self.waiting[ticket]
        self.gone.append(ticket)
        assert self.admission.cancel(ticket, self.now) == ()

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0))
    def give_up_unaware_of_the_admission(self, pick: int) -> None:
        ticket = list(self.running)[pick % len(self.running)]
        del self.running[ticket]
        self.admitted(self.admission.cancel(ticket, self.now))

    @precondition(lambda self: self.gone)
    @rule(pick=st.integers(0))
    def give_up_when_gone(self, pick: int) -> None:
        assert self.admission.cancel(self.gone[pick % len(self.gone)], self.now) == ()

    @rule(seconds=st.floats(0, 10))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree_and_no_request_waits_beside_a_free_slot(self) -> None:
        assert self.admission.in_flight == len(self.running) <= POLICY.max_requests_in_flight
        assert self.admission.num_waiting == len(self.waiting) <= POLICY.max_queued
        assert not self.waiting or len(self.running) == POLICY.max_requests_in_flight

    def teardown(self) -> None:
        while self.running:
            ticket = next(iter(self.running))
            del self.running[ticket]
            self.admitted(self.admission.finished(ticket, self.now))
        assert not self.waiting
        assert (self.admission.in_flight, self.admission.num_waiting) == (0, 0)


TestAdmission = AdmissionMachine.TestCase
