"""Whether a process lives and serves, as probes ask that cannot ask by gRPC.

The kubelet's gRPC probes speak no TLS, and not every process has a gRPC server: these are answered
over HTTP, beside the metrics, by another thread than the event loop's, so that a loop that is stuck
is reported and not merely silent.
"""

import asyncio
import time

BEAT_SECONDS = 0.5

STUCK_SECONDS = 5.0
"""No callback of any process takes a tenth of it; a machine that swaps is let be."""


class Liveness:
    """Life: construct, `start` on the event loop, set `serving`. The loop's end is its end."""

    def __init__(self) -> None:
        self.serving = False
        self.num_tasks = 0
        """That have not ended, at the last beat. A number that only grows is a leak."""
        self._beat_at: float | None = None

    def start(self) -> None:
        """From now on the running event loop is expected to turn. Safe to call again."""
        if self._beat_at is None:
            self._beat(asyncio.get_running_loop())

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat_at = time.monotonic()
        self.num_tasks = len(asyncio.all_tasks(loop))
        loop.call_later(BEAT_SECONDS, self._beat, loop)

    def stuck(self) -> str:
        """Why only a new start would help; empty while there is no reason. Safe in any thread."""
        if self._beat_at is None:
            return ""
        silent = time.monotonic() - self._beat_at
        return f"the event loop has not turned for {silent:.1f} s" if silent > STUCK_SECONDS else ""

    def trouble(self) -> str:
        """Why no work should be sent here; empty while there is no reason. Safe in any thread."""
        return self.stuck() or ("" if self.serving else "not serving: it starts or drains")
