"""What the worker has asked of its transfer process without an answer yet.

Every command that deserves an answer stands here until the answer came, so that a
transfer process which stopped answering is noticed whatever it was doing. Time is an argument.
"""

from dataclasses import dataclass
from typing import Final, Literal

from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    LinkUp,
    Received,
    Sent,
    TransferBusy,
)
from lengthwise_engine.transfer.messages import Pong, Progress, Report

# Far more than a pipeline needs (two messages move at a time), little enough to bound memory.
MAX_OUTSTANDING: Final = 1024
# The process's own limits come first; this much later it counts as stalled itself.
MARGIN_SECONDS: Final = 2.0
# How long a process may leave a ping unanswered. Its main thread never waits; requests wait for a
# frozen one so long, and then for another way.
PING_SECONDS: Final = 2.5
PING_PAUSE_SECONDS: Final = 0.25  # from one ping to the next
# Turns are taken four times a second: when they lie further apart, this process itself stood still.
_OWN_PAUSE_SECONDS: Final = 1.0

Direction = Literal["send", "receive"]


@dataclass(slots=True)
class _OpenLink:
    direction: Direction
    since: float  # the last sign of life, or when there was first something to wait for
    is_up: bool = False
    is_closing: bool = False
    next_sequence: int = 0
    num_outstanding: int = 0


@dataclass(slots=True)
class _Discards:
    num_outstanding: int
    since: float


class OutstandingOps:
    def __init__(self, *, stall_seconds: float, connect_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._connect_seconds = connect_seconds
        self._links: dict[str, _OpenLink] = {}
        self._discards: dict[str, _Discards] = {}
        self._pinged_at: float | None = None
        self._next_ping_at = 0.0
        self._turned_at: float | None = None

    @property
    def num_links(self) -> int:
        """Links whose end has not been reported."""
        return len(self._links)

    def open(self, link: str, direction: Direction, now: float) -> None:
        """Raises ValueError when the link is open: names are used once."""
        if link in self._links:
            raise ValueError(f"link {link!r} is open already; every attempt needs a new name")
        self._links[link] = _OpenLink(direction=direction, since=now)

    def issue(self, link: str, direction: Direction, sequence: int, now: float) -> bool:
        """Account for one operation. False when the link is not open.

        Raises ValueError for the wrong direction or a sequence number out of order, TransferBusy
        when too many operations of the link are outstanding.
        """
        state = self._links.get(link)
        if state is None or state.is_closing:
            return False
        if state.direction != direction:
            raise ValueError(f"link {link!r} is for {state.direction}, got a {direction}")
        if sequence != state.next_sequence:
            raise ValueError(
                f"link {link!r} expects sequence {state.next_sequence} next, got {sequence}"
            )
        if state.num_outstanding >= MAX_OUTSTANDING:
            raise TransferBusy(
                f"link {link!r} has {state.num_outstanding} operations outstanding;"
                " wait for their events"
            )
        if state.num_outstanding == 0:
            state.since = now
        state.next_sequence += 1
        state.num_outstanding += 1
        return True

    def close(self, link: str, now: float) -> bool:
        """False when there is nothing to close."""
        state = self._links.get(link)
        if state is None or state.is_closing:
            return False
        state.is_closing = True
        state.since = now
        return True

    def discard(self, key: str, now: float) -> None:
        discards = self._discards.setdefault(key, _Discards(num_outstanding=0, since=now))
        discards.num_outstanding += 1

    def turn(self, now: float) -> bool:
        """To be called a few times a second or more often; whether the process is to be asked for a
        sign of life, which it is expected to give."""
        last, self._turned_at = self._turned_at or now, now
        if now - last > _OWN_PAUSE_SECONDS:
            self._stood_still(now - last)
        # An answer is a turn too, which must not ask at once again.
        if self._pinged_at is not None or now < self._next_ping_at:
            return False
        self._pinged_at = now
        self._next_ping_at = now + PING_PAUSE_SECONDS
        return True

    def settle(self, report: Report, now: float) -> None:
        """Strike out what this report answers."""
        match report:
            case LinkUp(link=link):
                self._links[link].is_up = True
                self._links[link].since = now
            case LinkDown(link=link):
                del self._links[link]
            case Sent(link=link) | Received(link=link):
                self._links[link].num_outstanding -= 1
                self._links[link].since = now
            case Progress(link=link):
                self._links[link].since = now
            case Pong():
                self._pinged_at = None
            case Discarded(key=key):
                self._discards[key].num_outstanding -= 1
                if self._discards[key].num_outstanding == 0:
                    del self._discards[key]

    def overdue(self, now: float) -> str | None:
        """What has been waited for longer than the transfer process may take, in words."""
        for name, link in self._links.items():
            limit = self._limit(link)
            if limit is not None and now - link.since > limit:
                return f"link {name!r} gave no sign of life for {now - link.since:.1f} s"
        for key, discards in self._discards.items():
            if now - discards.since > self._stall_seconds + MARGIN_SECONDS:
                return f"the discard of {key!r} was not done after {now - discards.since:.1f} s"
        if self._pinged_at is not None and now - self._pinged_at > PING_SECONDS:
            return f"it did not answer for {now - self._pinged_at:.1f} s"
        return None

    def clear(self) -> None:
        """The transfer process is gone, and every answer with it."""
        self._links.clear()
        self._discards.clear()
        self._pinged_at = self._turned_at = None

    def _stood_still(self, seconds: float) -> None:
        """This process did, so that for so long nothing can have been noticed."""
        for link in self._links.values():
            link.since += seconds
        for discards in self._discards.values():
            discards.since += seconds
        if self._pinged_at is not None:
            self._pinged_at += seconds

    def _limit(self, link: _OpenLink) -> float | None:
        if link.is_closing:
            return self._stall_seconds + MARGIN_SECONDS
        if not link.is_up:
            return self._connect_seconds + MARGIN_SECONDS
        if link.num_outstanding:
            return self._stall_seconds + MARGIN_SECONDS
        return None
