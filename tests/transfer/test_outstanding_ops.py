"""Who was kept waiting for too long, decided without a clock."""

from collections.abc import Callable

import pytest

from lengthwise_engine.transfer.base import Discarded, LinkDown, LinkUp, Received, Sent
from lengthwise_engine.transfer.messages import Pong, Progress
from lengthwise_engine.transfer.supervisor.outstanding_ops import (
    MARGIN_SECONDS,
    PING_SECONDS,
    OutstandingOps,
)

STALL, CONNECT = 5.0, 3.0


@pytest.fixture
def outstanding() -> OutstandingOps:
    return OutstandingOps(stall_seconds=STALL, connect_seconds=CONNECT)


def opening(outstanding: OutstandingOps) -> None:
    outstanding.open("a", "send", 0.0)


def sending(outstanding: OutstandingOps) -> None:
    outstanding.open("a", "send", -50.0)
    outstanding.settle(LinkUp(link="a"), -40.0)
    outstanding.issue("a", "send", 0, 0.0)


def closing(outstanding: OutstandingOps) -> None:
    outstanding.open("a", "send", -50.0)
    outstanding.settle(LinkUp(link="a"), -40.0)
    outstanding.close("a", 0.0)


def discarding(outstanding: OutstandingOps) -> None:
    outstanding.discard("a", 0.0)


@pytest.mark.parametrize(
    ("ask", "limit"),
    [(opening, CONNECT), (sending, STALL), (closing, STALL), (discarding, STALL)],
    ids=["opening", "sending", "closing", "discarding"],
)
def test_what_was_asked_at_0_is_overdue_after_its_limit(
    outstanding: OutstandingOps, ask: Callable[[OutstandingOps], None], limit: float
) -> None:
    ask(outstanding)
    assert outstanding.overdue(limit + MARGIN_SECONDS - 0.01) is None
    reason = outstanding.overdue(limit + MARGIN_SECONDS + 0.01)
    assert reason is not None
    assert "'a'" in reason


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        pytest.param(opening, LinkUp(link="a"), id="up"),
        pytest.param(opening, LinkDown(link="a", reason=""), id="down"),
        pytest.param(sending, Sent(link="a", sequence=0, checksum=1), id="sent"),
        pytest.param(closing, LinkDown(link="a", reason=""), id="closed"),
        pytest.param(discarding, Discarded(key="a"), id="discarded"),
    ],
)
def test_an_answer_ends_the_waiting(
    outstanding: OutstandingOps,
    ask: Callable[[OutstandingOps], None],
    answer: LinkUp | LinkDown | Sent | Discarded,
) -> None:
    ask(outstanding)
    outstanding.settle(answer, 1.0)
    assert outstanding.overdue(1e9) is None


@pytest.mark.parametrize(
    "sign",
    [Progress(link="a"), Received(link="a", sequence=0, key="", checksum=1)],
    ids=["progress", "received"],
)
def test_a_sign_of_life_restarts_the_clock(
    outstanding: OutstandingOps, sign: Progress | Received
) -> None:
    outstanding.open("a", "receive", 0.0)
    outstanding.settle(LinkUp(link="a"), 0.0)
    for sequence in range(2):
        outstanding.issue("a", "receive", sequence, 0.0)
    outstanding.settle(sign, 4.0)
    assert outstanding.overdue(4.0 + STALL) is None
    assert outstanding.overdue(4.1 + STALL + MARGIN_SECONDS) is not None


def test_an_idle_link_is_never_overdue(outstanding: OutstandingOps) -> None:
    sending(outstanding)
    outstanding.settle(Sent(link="a", sequence=0, checksum=1), 1.0)
    outstanding.issue("a", "send", 1, 1000.0)
    assert outstanding.overdue(1001.0) is None


def test_each_discard_of_a_key_wants_an_answer(outstanding: OutstandingOps) -> None:
    for now in (0.0, 1.0):
        outstanding.discard("a", now)
    outstanding.settle(Discarded(key="a"), 1.0)
    assert outstanding.overdue(1e9) is not None
    outstanding.settle(Discarded(key="a"), 1.0)
    assert outstanding.overdue(1e9) is None


def test_nothing_is_waited_for_once_the_process_is_gone(outstanding: OutstandingOps) -> None:
    sending(outstanding)
    discarding(outstanding)
    outstanding.clear()
    assert outstanding.overdue(1e9) is None
    assert not outstanding.issue("a", "send", 1, 0.0)


def test_a_link_counts_until_its_end_is_reported(outstanding: OutstandingOps) -> None:
    assert outstanding.num_links == 0
    opening(outstanding)
    assert outstanding.num_links == 1
    outstanding.close("a", 1.0)
    assert outstanding.num_links == 1, "the transfer process may still use the cache for it"
    outstanding.settle(LinkDown(link="a", reason="closed"), 2.0)
    assert outstanding.num_links == 0
    sending(outstanding)
    outstanding.clear()
    assert outstanding.num_links == 0


def turns(outstanding: OutstandingOps, start: float, end: float) -> int:
    """How often the process is asked for a sign of life, in turns of a quarter of a second."""
    quarters = range(round(4 * start), round(4 * end))
    return sum(outstanding.turn(quarter / 4) for quarter in quarters)


def test_a_process_that_leaves_a_ping_unanswered_is_overdue(outstanding: OutstandingOps) -> None:
    assert turns(outstanding, 0.0, PING_SECONDS + 0.25) == 1
    assert outstanding.overdue(PING_SECONDS) is None
    assert "did not answer" in (outstanding.overdue(PING_SECONDS + 0.01) or "")


def test_a_process_that_answers_is_asked_again(outstanding: OutstandingOps) -> None:
    for second in range(10):
        assert turns(outstanding, second, second + 1) == 1
        outstanding.settle(Pong(), second + 0.9)
        assert outstanding.overdue(second + 0.9) is None


def test_nothing_is_overdue_for_the_time_that_this_process_itself_stood_still(
    outstanding: OutstandingOps,
) -> None:
    for ask in (opening, discarding):
        ask(outstanding)
    turns(outstanding, 0.0, 1.0)
    outstanding.turn(60.0)
    assert outstanding.overdue(60.0 + PING_SECONDS - 1.5) is None
    assert outstanding.overdue(60.0 + PING_SECONDS + 0.5) is not None


def test_a_process_that_answers_at_once_is_asked_four_times_a_second(
    outstanding: OutstandingOps,
) -> None:
    pings = 0
    for turn in range(10_000):
        now = turn / 1000
        if outstanding.turn(now):
            pings += 1
            outstanding.settle(Pong(), now)
    assert pings == 40
