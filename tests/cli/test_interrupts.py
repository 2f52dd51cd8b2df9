"""No interrupt of `up` is lost, wherever it arrives."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lengthwise_cli.interrupts import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield Interrupts()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_comes_while_held_is_raised_at_the_end(
    interrupts: Interrupts, number: signal.Signals
) -> None:
    done = []

    def run() -> None:
        with interrupts.held():
            signal.raise_signal(number)
            done.append("what must not be cut in two")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done


@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_was_swallowed_is_raised_again_once(
    interrupts: Interrupts, number: signal.Signals
) -> None:
    """As Python does in destructors and callbacks of weak references."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        pass
    with interrupts.held():
        pass


def test_one_that_was_answered_is_not_raised_again(interrupts: Interrupts) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupts.answered()
    with interrupts.held():
        pass
