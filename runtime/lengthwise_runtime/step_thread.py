"""The engine thread. It dies loudly: a step that raises is a defect or a broken device, so the
process logs, turns unhealthy, and ends, and its supervisor starts a clean one."""

import logging
import os
import sys
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""


def end_process(error: BaseException) -> None:
    """Flushes logs and ends the process at once: no handler may run on a broken engine."""
    logging.shutdown()
    os._exit(EXIT_CODE)


SWITCH_SECONDS = 0.0005
"""How long another thread keeps the interpreter when the engine thread wants it back, which lets go
of it with each of a step's 300 launches. Beside an event loop that is never idle the slowest of a
hundred steps took 61 to 117 ms with Python's 5 ms, 21 to 35 with this; with streams of tokens only
it makes no difference (benchmarks/data/step_jitter.csv)."""


class StepThread:
    """Calls `begin` once and then `step` until stopped, which must return within a bounded time."""

    def __init__(
        self,
        step: Callable[[], None],
        on_death: Callable[[BaseException], None] = end_process,
        *,
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        self._begin = begin
        self._step = step
        self._on_death = on_death
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Other threads of the process switch faster from now on."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Asks the loop to end after the running step; returns whether it did in time."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._begin()
            while not self._stopping.is_set():
                self._step()
        except BaseException as error:
            logger.critical("the engine thread died; ending the process", exc_info=error)
            self._on_death(error)
