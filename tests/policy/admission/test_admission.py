"""Admission: a bounded number of requests and of waiting ones, and who is refused until when."""

from random import Random

import pytest

from lengthwise_policy.admission.admission import (
    FIRST_RETRY_AFTER_SECONDS,
    Admission,
    AdmissionPolicy,
    AdmissionRequest,
    Admit,
    Refuse,
    Wait,
)
from lengthwise_policy.admission.fair_share import Ticket

ONE = AdmissionRequest(num_tokens=1)


def admitted(admission: Admission, demand: AdmissionRequest = ONE, now: float = 0.0) -> Ticket:
    answer = admission.ask(demand, now)
    assert isinstance(answer, Admit)
    return answer.ticket


def waiting(admission: Admission, demand: AdmissionRequest = ONE, now: float = 0.0) -> Ticket:
    answer = admission.ask(demand, now)
    assert isinstance(answer, Wait)
    return answer.ticket


def full(
    policy: AdmissionPolicy, *, completed_at: tuple[float, ...] = ()
) -> tuple[Admission, list[Ticket]]:
    """An admission at its limit, after completions at these instants, and who is in flight."""
    admission = Admission(policy)
    for at in completed_at:
        admission.finished(admitted(admission), now=at)
    return admission, [admitted(admission) for _ in range(policy.max_requests_in_flight)]


def refused(admission: Admission, demand: AdmissionRequest = ONE, now: float = 0.0) -> Refuse:
    answer = admission.ask(demand, now)
    assert isinstance(answer, Refuse)
    return answer


def retry_after(admission: Admission, now: float) -> float | None:
    return refused(admission, now=now).retry_after_seconds


def test_requests_are_admitted_up_to_the_limit_then_wait_then_are_refused() -> None:
    admission = Admission(AdmissionPolicy(max_requests_in_flight=2, max_queued=1))
    assert admission.ask(ONE, now=0.0) == Admit(
        ticket=Ticket(1), rule="free slot", reason="1 of 2 requests in flight"
    )
    assert admission.ask(ONE, now=0.0) == Admit(
        ticket=Ticket(2), rule="free slot", reason="2 of 2 requests in flight"
    )
    assert admission.ask(ONE, now=0.0) == Wait(
        ticket=Ticket(3),
        rule="all slots taken",
        reason="2 requests in flight, the limit is 2; 1 wait",
        displaced=None,
    )
    assert admission.ask(ONE, now=0.0) == Refuse(
        rule="queue full",
        reason="2 requests in flight, the limit is 2; 1 wait, the limit is 1",
        retry_after_seconds=FIRST_RETRY_AFTER_SECONDS,
    )
    assert (admission.in_flight, admission.num_waiting) == (2, 1)
    assert admission.finished(Ticket(1), now=1.5) == (
        Admit(ticket=Ticket(3), rule="waited", reason="waited 1.500 s; 2 of 2 requests in flight"),
    )
    assert (admission.in_flight, admission.num_waiting) == (2, 0)


def test_without_a_queue_no_request_waits() -> None:
    admission, _ = full(AdmissionPolicy(max_requests_in_flight=1, max_queued=0))
    assert refused(admission).rule == "queue full"
    assert admission.num_waiting == 0


def test_a_prompt_above_the_limit_is_refused_for_good() -> None:
    admission = Admission(AdmissionPolicy(max_prompt_tokens=100))
    admitted(admission, AdmissionRequest(num_tokens=100))
    assert refused(admission, AdmissionRequest(num_tokens=101)) == Refuse(
        rule="prompt too long",
        reason="prompt of 101 tokens, at most 100 are accepted; shorten it",
        retry_after_seconds=None,
    )
    assert admission.in_flight == 1


def test_higher_priorities_are_admitted_first() -> None:
    admission, (first,) = full(AdmissionPolicy(max_requests_in_flight=1))
    low = waiting(admission, AdmissionRequest(num_tokens=1, priority=-1))
    high = waiting(admission, AdmissionRequest(num_tokens=1, priority=2))
    assert [each.ticket for each in admission.finished(first, now=1.0)] == [high]
    assert [each.ticket for each in admission.finished(high, now=2.0)] == [low]


def test_a_full_queue_gives_way_to_a_higher_priority() -> None:
    admission, _ = full(AdmissionPolicy(max_requests_in_flight=1, max_queued=2))
    urgent = AdmissionRequest(num_tokens=1, priority=1)
    waiting(admission)
    low = waiting(admission)
    answer = admission.ask(urgent, now=0.0)
    assert isinstance(answer, Wait)
    assert answer.displaced is not None
    assert answer.displaced.ticket == low
    assert answer.displaced.refusal.rule == "queue full"
    assert answer.displaced.refusal.retry_after_seconds == FIRST_RETRY_AFTER_SECONDS
    assert refused(admission).rule == "queue full"  # the last of the lowest priority is itself
    assert admission.cancel(low, now=1.0) == ()  # its caller need not know
    assert admission.num_waiting == 2


def test_a_flood_of_one_tenant_neither_keeps_others_out_nor_delays_them() -> None:
    admission, (running,) = full(AdmissionPolicy(max_requests_in_flight=1, max_queued=20))
    flood = AdmissionRequest(num_tokens=500, tenant="flood")
    for _ in range(100):
        admission.ask(flood, now=0.0)
    quiet = waiting(admission, AdmissionRequest(num_tokens=500, tenant="quiet"))
    assert admission.num_waiting == 20
    order = []
    for _ in range(3):
        (next_one,) = admission.finished(running, now=1.0)
        running = next_one.ticket
        order.append(running)
    assert quiet in order


def test_output_counts_against_its_tenant_at_once() -> None:
    admission, (a, b) = full(AdmissionPolicy(max_requests_in_flight=2))
    first = waiting(admission, AdmissionRequest(num_tokens=1, tenant="a"))
    second = waiting(admission, AdmissionRequest(num_tokens=1, tenant="b"))
    (one,) = admission.finished(a, now=1.0)
    assert one.ticket == first
    admission.charge(first, 100)
    waiting(admission, AdmissionRequest(num_tokens=1, tenant="a"))
    (one,) = admission.finished(b, now=1.0)
    assert one.ticket == second
    with pytest.raises(RuntimeError, match="charge: request 1 is not in flight"):
        admission.charge(a, 1)


@pytest.mark.parametrize("how", ["finished", "cancelled", "displaced"])
def test_a_tenant_that_is_gone_earns_no_credit(how: str) -> None:
    admission = Admission(AdmissionPolicy(max_requests_in_flight=2, max_queued=2))
    a, b = AdmissionRequest(num_tokens=1, tenant="a"), AdmissionRequest(num_tokens=1, tenant="b")
    running = admitted(admission, a)
    if how == "finished":
        admission.finished(admitted(admission, b), now=0.0)
        admitted(admission, a)
    else:
        admitted(admission, a)
        others = [waiting(admission, a)]
        gone = waiting(admission, b)
        if how == "displaced":
            others.append(
                waiting(admission, AdmissionRequest(num_tokens=1, tenant="a", priority=1))
            )
        for ticket in (gone, *others):
            admission.cancel(ticket, now=0.0)
    admission.charge(running, 10_000)
    first, _ = waiting(admission, a), waiting(admission, b)
    assert [each.ticket for each in admission.finished(running, now=1.0)] == [first]


def test_giving_up_frees_the_place_in_the_queue() -> None:
    admission, (running,) = full(AdmissionPolicy(max_requests_in_flight=1, max_queued=1))
    gone = waiting(admission)
    assert admission.cancel(gone, now=0.0) == ()
    stays = waiting(admission)
    assert [each.ticket for each in admission.finished(running, now=1.0)] == [stays]


def test_giving_up_when_just_admitted_passes_the_slot_on() -> None:
    admission, (running,) = full(AdmissionPolicy(max_requests_in_flight=1))
    unaware, behind = waiting(admission), waiting(admission)
    admission.finished(running, now=1.0)
    assert [each.ticket for each in admission.cancel(unaware, now=1.0)] == [behind]
    assert admission.in_flight == 1
    admission.finished(behind, now=2.0)
    assert admission.in_flight == 0


def test_finishing_twice_is_a_bug() -> None:
    admission, (running,) = full(AdmissionPolicy(max_requests_in_flight=1))
    queued = waiting(admission)
    with pytest.raises(RuntimeError, match=r"request 2 is not in flight"):
        admission.finished(queued, now=0.0)
    admission.finished(running, now=0.0)
    with pytest.raises(RuntimeError, match=r"request 1 is not in flight"):
        admission.finished(running, now=0.0)


@pytest.mark.parametrize(
    ("completed_at", "now", "seconds"),
    [
        pytest.param((), 0.0, FIRST_RETRY_AFTER_SECONDS, id="nothing known"),
        pytest.param((5.0,), 6.0, FIRST_RETRY_AFTER_SECONDS, id="one completion has no gap"),
        pytest.param((0.0, 2.0, 4.0), 4.0, 2.0, id="the mean gap"),
        pytest.param((0.0, 2.0, 4.0), 9.0, 5.0, id="a silence longer than the gap"),
        pytest.param((0.0, 0.001), 0.001, 0.1, id="not below the minimum"),
        pytest.param((0.0, 100.0), 100.0, 30.0, id="not above the maximum"),
    ],
)
def test_retry_after_follows_the_completions(
    completed_at: tuple[float, ...], now: float, seconds: float
) -> None:
    policy = AdmissionPolicy(max_requests_in_flight=1, max_queued=0)
    admission, _ = full(policy, completed_at=completed_at)
    assert retry_after(admission, now) == pytest.approx(seconds)


def test_refused_clients_are_spread_and_the_line_moves_with_each_completion() -> None:
    policy = AdmissionPolicy(max_requests_in_flight=1, max_queued=0)
    admission, (running,) = full(policy, completed_at=(0.0, 1.0, 2.0))
    assert [retry_after(admission, now=2.0) for _ in range(3)] == pytest.approx([1.0, 2.0, 3.0])
    admission.finished(running, now=3.0)
    admitted(admission, now=3.0)
    assert retry_after(admission, now=3.0) == pytest.approx(3.0)  # two are still in line before it


def test_a_storm_of_refusals_is_forgotten_when_all_of_it_was_to_have_come_back() -> None:
    policy = AdmissionPolicy(max_requests_in_flight=1, max_queued=0, max_retry_after_seconds=4.0)
    admission, (running,) = full(policy, completed_at=(0.0, 1.0))
    for _ in range(10_000):
        refused(admission, now=1.0)
    for second in range(2, 8):
        admission.finished(running, now=float(second))
        running = admitted(admission, now=float(second))
    assert retry_after(admission, now=7.0) == pytest.approx(1.0)


def test_old_completions_are_forgotten() -> None:
    fast_after_slow = tuple(range(0, 1000, 10)) + tuple(1000 + n / 2 for n in range(40))
    admission, _ = full(
        AdmissionPolicy(max_requests_in_flight=1, max_queued=0),
        completed_at=tuple(map(float, fast_after_slow)),
    )
    assert retry_after(admission, now=fast_after_slow[-1]) == pytest.approx(0.5)


def late(predicted: float, *, priority: int = 0) -> AdmissionRequest:
    return AdmissionRequest(
        num_tokens=1,
        priority=priority,
        predicted_ttft_seconds=predicted,
        ttft_objective_seconds=0.4,
    )


def test_a_request_that_would_be_far_too_late_is_refused_until_it_would_not() -> None:
    admission = Admission(AdmissionPolicy(shed_factor=2.0))
    refusal = refused(admission, late(2.0))
    assert refusal.rule == "latency objective"
    assert refusal.reason == (
        "first token predicted after 2.000 s, more than 2 times the objective of 0.4 s"
    )
    assert refusal.retry_after_seconds == pytest.approx(1.2)
    admitted(admission, late(0.8))
    assert admission.in_flight == 1


def test_the_wait_for_a_slot_counts_towards_the_first_token() -> None:
    policy = AdmissionPolicy(max_requests_in_flight=1, shed_factor=5.0)
    admission, _ = full(policy, completed_at=(0.0, 0.5, 1.0))
    for _ in range(3):  # 0.5, 1.0 and 1.5 s
        waiting(admission, late(0.2), now=1.0)
    assert refused(admission, late(0.2), now=1.0).rule == "latency objective"
    waiting(admission, late(0.2, priority=1), now=1.0)  # no request is ahead of it


def test_nothing_is_shed_by_default_or_without_a_prediction() -> None:
    admitted(Admission(AdmissionPolicy()), late(1e6))
    policy = AdmissionPolicy(max_requests_in_flight=1, shed_factor=1.0)
    admission, _ = full(policy, completed_at=(0.0, 100.0))
    waiting(admission, AdmissionRequest(num_tokens=1), now=100.0)  # no objective


def test_the_same_requests_get_the_same_answers() -> None:
    def answers() -> list[object]:
        random = Random(4)
        policy = AdmissionPolicy(max_requests_in_flight=3, max_queued=5, shed_factor=3.0)
        admission = Admission(policy)
        running: list[Ticket] = []
        log: list[object] = []
        for tick in range(500):
            demand = AdmissionRequest(
                num_tokens=random.randrange(1, 500),
                tenant=random.choice("abc"),
                priority=random.randrange(2),
                ttft_objective_seconds=2.0,
            )
            answer = admission.ask(demand, float(tick))
            log.append(answer)
            if isinstance(answer, Admit):
                running.append(answer.ticket)
            if running and random.random() < 0.6:
                done = admission.finished(running.pop(random.randrange(len(running))), tick + 0.5)
                running += [each.ticket for each in done]
                log.append(done)
        return log

    assert answers() == answers()
