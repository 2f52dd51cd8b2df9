"""Limits of one caller, against brute force in exact numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.admission.token_bucket import TokenBucket
from lengthwise_policy.admission.usage import UsageLimits, UsageMeter

AMOUNTS = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 300)), max_size=40)
"""Milliseconds since the one before, and what is taken."""


@given(capacity=st.integers(1, 200), per_minute=st.integers(1, 5_000), takings=AMOUNTS)
def test_a_bucket_holds_what_exact_arithmetic_says(
    capacity: int, per_minute: int, takings: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(capacity=capacity, per_second=per_minute / 60)
    level, clock = Fraction(capacity), 0
    for milliseconds, amount in takings:
        clock += milliseconds
        level = min(Fraction(capacity), level + Fraction(per_minute * milliseconds, 60_000))
        assert bucket.level(clock / 1000) == pytest.approx(float(level), abs=1e-6)
        wait = max(Fraction(0), (1 - level) * 60 / per_minute)
        assert bucket.seconds_until(1, clock / 1000) == pytest.approx(float(wait), abs=1e-4)
        bucket.take(amount, clock / 1000)
        level -= amount


@given(limit=st.integers(1, 50), replicas=st.integers(1, 8), gaps=st.lists(st.integers(0, 9_000)))
def test_no_minute_has_more_requests_than_a_burst_and_the_rate(
    limit: int, replicas: int, gaps: list[int]
) -> None:
    meter = UsageMeter(UsageLimits(requests_per_minute=limit).share(replicas))
    now, begun = 0.0, []
    for gap in gaps:
        now += gap / 1000
        if meter.begin(now) is None:
            begun.append(now)
    most = max(1.0, limit / replicas) + limit / replicas
    for first in begun:
        assert sum(first <= each < first + 60 for each in begun) <= most + 1e-3


@given(limit=st.integers(1, 1_000), used=st.integers(1, 100_000), when=st.floats(0, 1e9))
def test_who_comes_back_when_told_may_begin(limit: int, used: int, when: float) -> None:
    meter = UsageMeter(UsageLimits(requests_per_minute=limit, tokens_per_minute=limit))
    assert meter.begin(when) is None
    assert meter.charge_prompt(used, when) is None
    meter.charge_output(used, when)
    exceeded = meter.begin(when)
    if exceeded is None:
        assert 2 * used < limit
        return
    assert meter.begin(when) == exceeded, "a refusal costs nothing"
    earlier = exceeded.retry_after_seconds * 0.99 - 0.01
    assert earlier < 0 or meter.begin(when + earlier) is not None
    later = when + exceeded.retry_after_seconds + 1e-5
    assert meter.begin(later) is None or meter.begin(later + 60 / limit) is None


def test_what_began_is_never_cut_and_paid_for_later() -> None:
    meter = UsageMeter(UsageLimits(tokens_per_minute=60))
    assert meter.begin(0.0) is None
    assert meter.charge_prompt(100, 0.0) is None
    meter.charge_output(20, 0.0)
    exceeded = meter.begin(0.0)
    assert exceeded is not None
    assert exceeded.limit == "tokens"
    assert exceeded.retry_after_seconds == pytest.approx(61.0)


def test_of_many_that_begin_at_once_the_first_prompts_count() -> None:
    meter = UsageMeter(UsageLimits(tokens_per_minute=60))
    assert all(meter.begin(0.0) is None for _ in range(100))
    assert [meter.charge_prompt(40, 0.0) is None for _ in range(4)] == [True, True, False, False]


def test_as_many_run_at_once_as_may() -> None:
    meter = UsageMeter(UsageLimits(max_concurrent=2, requests_per_minute=1_000))
    assert [meter.begin(0.0) is None for _ in range(3)] == [True, True, False]
    (allowance,) = meter.allowances(0.0)
    assert allowance.remaining == 998, "what is refused is not counted"
    meter.end()
    assert meter.begin(0.0) is None


def test_a_share_is_never_nothing() -> None:
    limits = UsageLimits(requests_per_minute=1, tokens_per_minute=1, max_concurrent=2).share(3)
    meter = UsageMeter(limits)
    assert meter.begin(0.0) is None
    assert meter.begin(0.0) is not None
    meter.end()
    exceeded = meter.begin(0.0)
    assert exceeded is not None
    assert exceeded.retry_after_seconds == pytest.approx(180.0), "a third of one a minute"


def test_limits_that_change_begin_anew_and_those_that_stay_go_on() -> None:
    meter = UsageMeter(UsageLimits(requests_per_minute=1, max_concurrent=1))
    assert meter.begin(0.0) is None
    meter.change(UsageLimits(requests_per_minute=1, max_concurrent=1))
    assert meter.begin(0.0) is not None
    meter.change(UsageLimits(requests_per_minute=2, max_concurrent=1))
    exceeded = meter.begin(0.0)
    assert exceeded is not None
    assert exceeded.limit == "concurrent", "what runs still counts"
    meter.end()
    assert meter.begin(0.0) is None


@pytest.mark.parametrize(
    "wrong", [{"capacity": 0.5, "per_second": 1}, {"capacity": 1, "per_second": 0}]
)
def test_a_bucket_that_never_fills_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"capacity|per_second"):
        TokenBucket(**wrong)
