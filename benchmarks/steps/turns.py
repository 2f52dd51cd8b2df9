"""Steps that are compared: in turns, so that what else a machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence

MIN_TURNS = 3


def in_turns(
    steps: Mapping[str, Callable[[], object]], seconds: float
) -> Mapping[str, Sequence[float]]:
    """Milliseconds of processor time of each step, turn by turn, for about so long; the first time
    that one is computed does not count."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end, turn = time.monotonic() + seconds, 0
    while turn < MIN_TURNS or time.monotonic() < end:
        for name in sorted(steps, reverse=bool(turn % 2)):
            began_at = time.process_time()
            steps[name]()
            taken[name].append((time.process_time() - began_at) * 1e3)
        turn += 1
    return taken
