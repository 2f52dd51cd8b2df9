"""SIGINT and SIGTERM as KeyboardInterrupt, but not in the middle of what must not be cut in two."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """From its making on, in the main thread, both signals raise KeyboardInterrupt.

    Within `held` they wait: a process that was started but not yet written down, or one that is
    being ended, would outlive the command. One that was raised where Python ignores exceptions, as
    in a callback of a weak reference, is raised again at the end of the next `held`, unless it was
    `answered`.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._is_pending = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Interrupts that come meanwhile are raised once, at the end. Does not nest."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self.raise_pending()

    def raise_pending(self) -> None:
        """Raises KeyboardInterrupt if one waits."""
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    def answered(self) -> None:
        """To be called where a KeyboardInterrupt has arrived."""
        self._is_pending = False

    def ignore(self) -> None:
        """No further signal counts: what is left to do is bounded."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._is_pending = True
        if not self._is_held:
            raise KeyboardInterrupt
