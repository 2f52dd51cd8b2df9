"""How far a download or a load has come, in bytes and seconds: a line that is written over on a
terminal, lines of the log elsewhere."""

import logging
import sys
import time
from typing import Final

logger = logging.getLogger(__name__)

LOG_SECONDS: Final = 2.0
"""Between two lines of the log."""

DRAW_SECONDS: Final = 0.1
"""Between two looks of the line on a terminal."""


class ByteProgress:
    """Of one download or load. `total` may grow."""

    def __init__(self, doing: str, done: str, total: int = 0) -> None:
        """`doing` and `done` begin the lines: "loading MODEL", "loaded MODEL"."""
        self.total = total
        self._doing = doing
        self._done = done
        self._bytes = 0
        self._began_at = time.monotonic()
        self._terminal = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
        self._every = LOG_SECONDS if self._terminal is None else DRAW_SECONDS
        self._told_at = -self._every
        self._drawn = 0

    def add(self, num_bytes: int) -> None:
        """So many more are done."""
        self.reach(self._bytes + num_bytes)

    def reach(self, num_bytes: int) -> None:
        """So many are done; tells it where the last line is old enough, and at first."""
        self._bytes = num_bytes
        now = time.monotonic()
        if now - self._told_at < self._every:
            return
        self._told_at = now
        text = f"{self._doing}: {_mib(self._bytes)} of {_mib(self.total)} MiB, {self._seconds()}"
        if self._terminal is None:
            logger.info("%s", text)
        else:
            self._draw(text)

    def finish(self, remark: str = "") -> None:
        """All is done: the last line, in the log in either case."""
        if self._drawn:
            self._draw("")
        logger.info("%s: %s MiB in %s%s", self._done, _mib(self._bytes), self._seconds(), remark)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began_at:.1f} s"

    def _draw(self, text: str) -> None:
        assert self._terminal is not None
        # What was longer is blanked out; the cursor waits at the left, where any other line begins.
        self._terminal.write(f"{text.ljust(self._drawn)}\r")
        self._terminal.flush()
        self._drawn = len(text)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f}"
