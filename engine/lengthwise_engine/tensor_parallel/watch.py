"""The thread of rank 0 that notices when another rank dies, or a step does not end.

The rules:
* The first loss is the last: the worker has no use for fewer ranks, so all are killed, and what
  waits for them on a device is ended. The step, or the next one, then raises.
* Nothing waits for the engine thread. If it is stuck in a driver that not even an aborted group
  lets go of, the process ends.
"""

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from lengthwise_engine.errors import RankError
from lengthwise_engine.waker import Waker

logger = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.25
_STUCK_SECONDS: Final = 5.0
_SOFTWARE_ERROR: Final = 70


def _end_process() -> None:
    logging.shutdown()
    os._exit(_SOFTWARE_ERROR)


class Watched(Protocol):
    """A `RankProcess`. Its socket carries nothing more, so it is readable once it hung up."""

    @property
    def rank(self) -> int: ...

    @property
    def socket(self) -> socket.socket: ...

    def last_words(self) -> str: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class RankWatch:
    """Watches from its making until `close`, which ends the ranks too."""

    def __init__(
        self, ranks: Sequence[Watched], on_stuck: Callable[[], None] = _end_process
    ) -> None:
        self._ranks = ranks
        self._on_stuck = on_stuck
        self._abort: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._failure: RankError | None = None
        self._deadline: float | None = None
        self._between_steps = threading.Event()
        self._between_steps.set()
        self._closing = threading.Event()
        self._waker = Waker()
        self._thread = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> RankError | None:
        """Why no step can be computed any more."""
        return self._failure

    def abort_with(self, abort: Callable[[], None]) -> None:
        """`abort` ends what waits on a device for a lost rank."""
        self._abort = abort

    @contextmanager
    def step(self, seconds: float | None) -> Iterator[None]:
        """Around whatever takes all ranks, and `seconds` at most (None: it bounds itself).

        Raises `RankError` when a rank is lost, which one is whenever something else is raised.
        """
        self._check()
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._between_steps.clear()
        try:
            yield
        except Exception as error:
            self._lose(f"a step failed: {error}")
            raise RankError(str(self._failure)) from error
        finally:
            self._deadline = None
            self._between_steps.set()
        self._check()

    def close(self) -> None:
        self._closing.set()
        self._waker.wake()
        self._thread.join(_TICK_SECONDS + _STUCK_SECONDS)
        for rank in self._ranks:
            rank.kill()  # all at once, so that none reports the loss of another
        for rank in self._ranks:
            rank.close()
        self._waker.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise RankError(str(self._failure))

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = RankError(reason)
        logger.error("the ranks are lost: %s", reason)
        for rank in self._ranks:
            rank.kill()
        if self._abort is not None:
            self._abort()

    def _watch(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._waker.readable, selectors.EVENT_READ)
                for rank in self._ranks:
                    selector.register(rank.socket, selectors.EVENT_READ, rank)
                while self._failure is None and not self._closing.is_set():
                    self._look(selector)
        except Exception as error:
            logger.exception("the ranks are not watched any more")
            self._lose(f"their watch ended: {error}")
        if not self._closing.is_set() and not self._between_steps.wait(_STUCK_SECONDS):
            logger.critical("the step does not end although the ranks are gone; ending the process")
            self._on_stuck()

    def _look(self, selector: selectors.BaseSelector) -> None:
        for key, _ in selector.select(_TICK_SECONDS):
            if key.data is not None and not self._closing.is_set():
                self._lose(f"rank {key.data.rank} died ({key.data.last_words()})")
        deadline = self._deadline
        if deadline is not None and time.monotonic() > deadline:
            self._lose("a step did not end in time; a rank or a device has stalled")
