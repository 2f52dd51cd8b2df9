"""How routers that place at once keep off one another's choices.

All see the same statuses, which lag: if each took the best worker, they would all meet there. What
the others place until statuses show it is expected to fill the workers from the best one up to one
level, as water does,

    sum of max(level - load, 0) = expected

and a request goes where one of theirs would go: to each worker in proportion to what is expected
there (Dahlin, "Interpreting Stale Load Information"). A router that is alone takes the best.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lengthwise_policy.types import Random

Scored = TypeVar("Scored", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class OtherRouters:
    """Those that place requests on the same workers, about as many each as this one."""

    count: int
    random: Random

    def choose(self, scored: Sequence[Scored], own: float) -> Scored:
        """One of at least one worker, each its load and then what breaks ties. `own`: the load that
        this router adds now, and has added lately where no status shows it yet."""
        if self.count * own <= 0:
            return min(scored)
        load, rank = self.draw([each[0] for each in scored], own)
        return sorted([each for each in scored if each[0] == load])[rank]

    def draw(self, loads: Sequence[float], own: float) -> tuple[float, int]:
        """The load of the worker to choose, and its rank among those with the same load. Numbers
        alone are sorted, which takes a fifth of the time that tuples of them do."""
        ranked = sorted(loads)
        expected, chosen = self.count * own, 0
        if expected > 0:
            level, rest = water_level(ranked, expected), self.random() * expected
            for index, load in enumerate(ranked):
                if load >= level:
                    break
                chosen = index
                rest -= level - load
                if rest < 0:
                    break
        load = ranked[chosen]
        return load, chosen - bisect_left(ranked, load)


ALONE = OtherRouters(0, lambda: 0.0)


def exceeds(there: int, most: int | None) -> bool:
    """Whether a worker has more than a router presumed when it placed a request there, so that the
    request had better be placed anew; None: any number will do."""
    return most is not None and there > most


def water_level(loads: Sequence[float], expected: float) -> float:
    """To which `expected`, more than 0, fills the lowest of at least one load."""
    level, total = float("inf"), expected
    for filled, load in enumerate(sorted(loads), 1):
        if load >= level:
            break
        total += load
        level = total / filled
    return level
