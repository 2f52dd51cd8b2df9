"""How routers that place at once keep off one another's choices.

All see the same statuses, which lag: if each took the best worker, they would all meet there. What
the others place until statuses show it is expected to fill the workers from the best one up to one
level, as water does,

    sum of max(level - load, 0) = expected

and a request goes where one of theirs would go: to each worker in proportion to what is expected
there (Dahlin, "Interpreting Stale Load Information"). A router that is alone takes the best.
"""

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
        if (expected := self.count * own) <= 0:
            return min(scored)
        level = water_level([each[0] for each in scored], expected)
        below = sorted(each for each in scored if each[0] < level)
        if not below:  # it is too little to be told from nothing
            return min(scored)
        rest = self.random() * expected
        for each in below:
            rest -= level - each[0]
            if rest < 0:
                return each
        return below[-1]


ALONE = OtherRouters(0, lambda: 0.0)


def water_level(loads: Sequence[float], expected: float) -> float:
    """To which `expected`, more than 0, fills the lowest of at least one load."""
    level, total = float("inf"), expected
    for filled, load in enumerate(sorted(loads), 1):
        if load >= level:
            break
        total += load
        level = total / filled
    return level
