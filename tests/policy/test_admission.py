"""Admission: a bounded number of requests, and a retry-after that follows the completions."""

import pytest

from lengthwise_policy.admission import (
    FIRST_RETRY_AFTER_SECONDS,
    Admission,
    AdmissionPolicy,
    Admit,
    Refuse,
)


def full(policy: AdmissionPolicy, *, completed_at: tuple[float, ...] = ()) -> Admission:
    """An admission at its limit, after completions at these instants."""
    admission = Admission(policy)
    for at in completed_at:
        admission.ask(1, now=at)
        admission.finished(now=at)
    while admission.in_flight < policy.max_requests_in_flight:
        assert isinstance(admission.ask(1, now=0.0), Admit)
    return admission


def retry_after(admission: Admission, now: float) -> float | None:
    answer = admission.ask(1, now=now)
    assert isinstance(answer, Refuse)
    return answer.retry_after_seconds


def test_requests_are_admitted_up_to_the_limit_and_again_when_one_has_finished() -> None:
    admission = Admission(AdmissionPolicy(max_requests_in_flight=2))
    assert admission.ask(10, now=0.0) == Admit(reason="1 of 2 requests in flight")
    assert admission.ask(10, now=0.0) == Admit(reason="2 of 2 requests in flight")
    refused = admission.ask(10, now=0.0)
    assert refused == Refuse(
        reason="2 requests in flight, the limit is 2",
        retry_after_seconds=FIRST_RETRY_AFTER_SECONDS,
    )
    assert admission.in_flight == 2
    admission.finished(now=1.0)
    assert isinstance(admission.ask(10, now=1.0), Admit)


def test_a_prompt_above_the_limit_is_refused_for_good() -> None:
    admission = Admission(AdmissionPolicy(max_prompt_tokens=100))
    assert isinstance(admission.ask(100, now=0.0), Admit)
    assert admission.ask(101, now=0.0) == Refuse(
        reason="prompt of 101 tokens, at most 100 are accepted; shorten it",
        retry_after_seconds=None,
    )
    assert admission.in_flight == 1


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
    admission = full(AdmissionPolicy(max_requests_in_flight=1), completed_at=completed_at)
    assert retry_after(admission, now) == pytest.approx(seconds)


def test_refused_clients_are_spread_and_the_line_moves_with_each_completion() -> None:
    admission = full(AdmissionPolicy(max_requests_in_flight=1), completed_at=(0.0, 1.0, 2.0))
    assert [retry_after(admission, now=2.0) for _ in range(3)] == pytest.approx([1.0, 2.0, 3.0])
    admission.finished(now=3.0)
    admission.ask(1, now=3.0)
    assert retry_after(admission, now=3.0) == pytest.approx(3.0)  # two are still in line before it


def test_old_completions_are_forgotten() -> None:
    fast_after_slow = tuple(range(0, 1000, 10)) + tuple(1000 + n / 2 for n in range(40))
    admission = full(
        AdmissionPolicy(max_requests_in_flight=1), completed_at=tuple(map(float, fast_after_slow))
    )
    assert retry_after(admission, now=fast_after_slow[-1]) == pytest.approx(0.5)


def test_more_completions_than_requests_are_a_bug() -> None:
    with pytest.raises(RuntimeError, match="no request is in flight"):
        Admission(AdmissionPolicy()).finished(now=0.0)
