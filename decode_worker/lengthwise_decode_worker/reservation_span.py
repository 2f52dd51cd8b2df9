"""What a traced request's reservation goes through, as spans."""

import time
from typing import TYPE_CHECKING

from lengthwise_decode_worker.messages import DecodeWork

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import TracedSpan


class ReservationSpan:
    """One span, with one below it for each phase: reserve, receive, decode. Where the prompt is
    computed here, decode begins with that, and nothing is received."""

    def __init__(self, span: "TracedSpan") -> None:
        self._span = span
        self._phase = "reserve"
        self._began_at = time.monotonic()
        self._error = ""

    def granted(self, *, local: bool) -> None:
        """It has its blocks."""
        self._next("decode" if local else "receive")

    def committed(self) -> None:
        """The prompt's KV is in them."""
        self._next("decode")

    def failed(self, error: str) -> None:
        """It will end for this reason."""
        self._error = error

    def end(self, work: DecodeWork, *, finished: bool) -> None:
        self._next("")
        facts = {
            "reservation": work.number,
            "prompt_tokens": work.reservation.num_tokens,
            "output_tokens": len(work.token_ids) - work.reservation.num_tokens,
            "finished": finished,
        }
        self._span.end(self._began_at, facts, self._error)

    def _next(self, phase: str) -> None:
        now = time.monotonic()
        error = "" if phase else self._error
        self._span.child(self._phase, self._began_at, now, error=error)
        self._phase, self._began_at = phase, now
