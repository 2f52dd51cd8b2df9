"""Fair shares: priorities first, then the tenant that had least; everything bounded."""

from random import Random

import pytest

from lengthwise_policy.admission.fair_share import FairQueue, TenantCounters, Ticket


def queue(*waiting: tuple[str, int]) -> tuple[FairQueue, TenantCounters]:
    """Tenants and priorities; their tickets are 1, 2, ..."""
    counters = TenantCounters()
    fair = FairQueue(counters)
    for number, (tenant, priority) in enumerate(waiting, start=1):
        counters.arrived(tenant)
        fair.push(Ticket(number), tenant, priority)
    return fair, counters


def drained(fair: FairQueue) -> list[int]:
    return [fair.pop() for _ in range(len(fair))]


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    fair, _ = queue(("a", 0), ("a", 0), ("a", 0))
    assert drained(fair) == [1, 2, 3]
    with pytest.raises(ValueError, match="empty"):
        fair.pop()


def test_priorities_come_before_fairness_and_arrival() -> None:
    fair, counters = queue(("a", 0), ("b", -5), ("a", 7), ("b", 7))
    counters.charge("a", input_tokens=1000)
    assert drained(fair) == [4, 3, 1, 2]


def test_the_tenant_that_had_least_is_next_and_output_weighs_twice() -> None:
    fair, counters = queue(("a", 0), ("b", 0))
    counters.charge("a", input_tokens=100, output_tokens=100)
    counters.charge("b", input_tokens=299)
    assert counters.served("a") == 300
    assert drained(fair) == [2, 1]


def test_a_removed_ticket_is_never_next() -> None:
    fair, _ = queue(("a", 0), ("b", 1), ("a", 0))
    fair.remove(Ticket(2))
    fair.remove(Ticket(1))
    assert drained(fair) == [3]
    with pytest.raises(KeyError):
        fair.remove(Ticket(3))


@pytest.mark.parametrize(
    ("waiting", "least"),
    [
        pytest.param([("a", 0), ("a", 0)], 2, id="the last of the only tenant"),
        pytest.param([("a", 0), ("a", 0), ("b", 0)], 2, id="of the tenant with most waiting"),
        pytest.param([("a", 0), ("b", 0)], 2, id="the last one where all are equal"),
        pytest.param([("b", -1), ("a", 0), ("a", 0)], 1, id="of the lowest priority"),
    ],
)
def test_who_goes_when_there_is_no_place(waiting: list[tuple[str, int]], least: int) -> None:
    fair, _ = queue(*waiting)
    assert fair.pop_least() == least
    assert len(fair) == len(waiting) - 1


def test_the_line_ahead_has_the_tenants_own_and_as_many_of_each_other() -> None:
    fair, _ = queue(*[("a", 0)] * 50, ("b", 0), ("b", 0), ("c", 3))
    assert fair.num_ahead("a", 0) == 50 + 2 + 1
    assert fair.num_ahead("b", 0) == 2 + 3 + 1
    assert fair.num_ahead("d", 0) == 1 + 1 + 1
    assert fair.num_ahead("d", 3) == 1
    assert fair.num_ahead("d", 4) == 0
    assert fair.num_ahead("d", -1) == 53


def test_absence_earns_no_credit() -> None:
    counters = TenantCounters()
    counters.arrived("busy")
    counters.charge("busy", input_tokens=5000)
    counters.arrived("new")
    assert counters.served("new") == 5000


def test_a_tenant_that_had_too_much_comes_back_with_it() -> None:
    counters = TenantCounters()
    for tenant in ("a", "b"):
        counters.arrived(tenant)
    counters.charge("a", input_tokens=700)
    counters.left("a")
    counters.arrived("a")
    assert (counters.served("a"), counters.served("b")) == (700, 0)


def test_a_tenant_that_comes_to_an_idle_router_begins_where_the_last_one_left() -> None:
    counters = TenantCounters()
    counters.arrived("a")
    counters.charge("a", input_tokens=700)
    counters.left("a")
    counters.arrived("b")
    counters.arrived("a")
    assert (counters.served("a"), counters.served("b")) == (700, 700)


def test_a_bounded_number_of_absent_tenants_is_remembered_the_latest_of_them() -> None:
    counters = TenantCounters(max_absent=2)
    counters.arrived("present")
    for number in range(5):
        counters.arrived(f"t{number}")
        counters.charge(f"t{number}", input_tokens=100)
        counters.left(f"t{number}")
    for tenant, tokens in (("t4", 100), ("t3", 100), ("t2", 0)):
        counters.arrived(tenant)
        assert counters.served(tenant) == tokens


@pytest.mark.parametrize("seed", range(5))
def test_tenants_that_always_wait_are_served_alike_whatever_they_send(seed: int) -> None:
    """One sends many short requests, one few long ones; four run at a time."""
    random = Random(seed)
    counters = TenantCounters()
    fair = FairQueue(counters)
    sizes: dict[Ticket, tuple[str, int, int]] = {}
    largest = {"many": (50, 20), "long": (4000, 300)}
    total = {"many": 0, "long": 0}
    running: list[Ticket] = []

    def send(tenant: str) -> None:
        ticket = Ticket(len(sizes) + 1)
        tokens_in, tokens_out = (random.randrange(1, most + 1) for most in largest[tenant])
        sizes[ticket] = (tenant, tokens_in, tokens_out)
        counters.arrived(tenant)
        fair.push(ticket, tenant, 0)

    for tenant, count in (("many", 40), ("long", 2)):
        for _ in range(count):
            send(tenant)
    for _ in range(5000):
        if len(running) == 4:
            ended = running.pop(random.randrange(4))
            tenant, _, tokens_out = sizes[ended]
            counters.charge(tenant, output_tokens=tokens_out)
            total[tenant] += 2 * tokens_out
            counters.left(tenant)
        running.append(fair.pop())
        tenant, tokens_in, _ = sizes[running[-1]]
        counters.charge(tenant, input_tokens=tokens_in)
        total[tenant] += tokens_in
        send(tenant)
        assert abs(total["many"] - total["long"]) <= 4000 + 4 * 2 * 300
    assert total["many"] > 100_000
