"""Who was kept waiting for too long, decided without a clock."""

from collections.abc import Callable

import pytest

from lengthwise_engine.transfer.base import Discarded, LinkDown, LinkUp, Received, Sent
from lengthwise_engine.transfer.messages import Progress
from lengthwise_engine.transfer.supervisor.outstanding_ops import MARGIN_SECONDS, Ledger

STALL, CONNECT = 5.0, 3.0


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(stall_seconds=STALL, connect_seconds=CONNECT)


def opening(ledger: Ledger) -> None:
    ledger.open("a", "send", 0.0)


def sending(ledger: Ledger) -> None:
    ledger.open("a", "send", -50.0)
    ledger.settle(LinkUp(link="a"), -40.0)
    ledger.issue("a", "send", 0, 0.0)


def closing(ledger: Ledger) -> None:
    ledger.open("a", "send", -50.0)
    ledger.settle(LinkUp(link="a"), -40.0)
    ledger.close("a", 0.0)


def discarding(ledger: Ledger) -> None:
    ledger.discard("a", 0.0)


@pytest.mark.parametrize(
    ("ask", "limit"),
    [(opening, CONNECT), (sending, STALL), (closing, STALL), (discarding, STALL)],
    ids=["opening", "sending", "closing", "discarding"],
)
def test_what_was_asked_at_0_is_overdue_after_its_limit(
    ledger: Ledger, ask: Callable[[Ledger], None], limit: float
) -> None:
    ask(ledger)
    assert ledger.overdue(limit + MARGIN_SECONDS - 0.01) is None
    reason = ledger.overdue(limit + MARGIN_SECONDS + 0.01)
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
    ledger: Ledger, ask: Callable[[Ledger], None], answer: LinkUp | LinkDown | Sent | Discarded
) -> None:
    ask(ledger)
    ledger.settle(answer, 1.0)
    assert ledger.overdue(1e9) is None


@pytest.mark.parametrize(
    "sign",
    [Progress(link="a"), Received(link="a", sequence=0, key="", checksum=1)],
    ids=["progress", "received"],
)
def test_a_sign_of_life_restarts_the_clock(ledger: Ledger, sign: Progress | Received) -> None:
    ledger.open("a", "receive", 0.0)
    ledger.settle(LinkUp(link="a"), 0.0)
    for sequence in range(2):
        ledger.issue("a", "receive", sequence, 0.0)
    ledger.settle(sign, 4.0)
    assert ledger.overdue(4.0 + STALL) is None
    assert ledger.overdue(4.1 + STALL + MARGIN_SECONDS) is not None


def test_an_idle_link_is_never_overdue(ledger: Ledger) -> None:
    sending(ledger)
    ledger.settle(Sent(link="a", sequence=0, checksum=1), 1.0)
    ledger.issue("a", "send", 1, 1000.0)
    assert ledger.overdue(1001.0) is None


def test_each_discard_of_a_key_wants_an_answer(ledger: Ledger) -> None:
    for now in (0.0, 1.0):
        ledger.discard("a", now)
    ledger.settle(Discarded(key="a"), 1.0)
    assert ledger.overdue(1e9) is not None
    ledger.settle(Discarded(key="a"), 1.0)
    assert ledger.overdue(1e9) is None


def test_nothing_is_waited_for_once_the_process_is_gone(ledger: Ledger) -> None:
    sending(ledger)
    discarding(ledger)
    ledger.clear()
    assert ledger.overdue(1e9) is None
    assert not ledger.issue("a", "send", 1, 0.0)


def test_a_link_counts_until_its_end_is_told(ledger: Ledger) -> None:
    assert ledger.num_links == 0
    opening(ledger)
    assert ledger.num_links == 1
    ledger.close("a", 1.0)
    assert ledger.num_links == 1, "the transfer process may still use the cache for it"
    ledger.settle(LinkDown(link="a", reason="closed"), 2.0)
    assert ledger.num_links == 0
    sending(ledger)
    ledger.clear()
    assert ledger.num_links == 0
