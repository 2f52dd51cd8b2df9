"""When there was a way from a caller to an answer, as seen from outside."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

NOTICE_SECONDS = 1.0
"""A worker that has just become ready may still be unknown to a router: discovery looks twice a
second, and then connects."""


def has_path(
    live: Collection[str],
    cut: Collection[tuple[str, str]],
    *,
    routers: Collection[str],
    decode: Collection[str],
) -> bool:
    """A live router that reaches a live decode worker can serve every request: decode workers
    compute prompts too, so neither prefill workers nor links nor transfer processes are needed."""
    return any(
        router in live and worker in live and (router, worker) not in cut
        for router in routers
        for worker in decode
    )


@dataclass(slots=True)
class Timeline:
    """The times without a path, from looks in the order of their times."""

    outages: list[tuple[float, float]] = field(default_factory=list)
    """From and until; the last may still go on."""
    _out: bool = False

    def look(self, now: float, path: bool) -> None:
        if self._out:
            self.outages[-1] = (self.outages[-1][0], now)
        elif not path:
            self.outages.append((now, now))
        self._out = not path

    def out_seconds(self, begin: float, end: float) -> float:
        """How much of this time had no path."""
        return sum(max(0.0, min(end, up) - max(begin, down)) for down, up in self.outages)

    def is_out(self, at: float) -> bool:
        """Whether there was no path at this moment, or just before it."""
        return any(down <= at <= up + NOTICE_SECONDS for down, up in self.outages)

    def silence(self, times: Sequence[float]) -> float:
        """The longest wait between two of these ascending times, less what had no path."""
        return max(
            end - begin - self.out_seconds(begin, end) for begin, end in itertools.pairwise(times)
        )
