"""Which prefill worker computes a prompt and which decode worker continues it: the strategies.

Every strategy is one function type over snapshots, chosen by name from `STRATEGIES`. Who may be
chosen at all (alive, large enough, compatible) is decided before, in `candidates.py`, alike for all.

The rule: the same inputs give the same placement, whatever the order of the workers; ties break by
id; random numbers are an argument.
"""

from collections.abc import Callable, Mapping, Sequence

from lengthwise_policy.types import Placement, PlacementRequest, WorkerView

# Raises NoCandidates. Arguments: the request, the prefill workers, the decode workers.
Strategy = Callable[[PlacementRequest, Sequence[WorkerView], Sequence[WorkerView]], Placement]

# Gives numbers in [0, 1).
Random = Callable[[], float]


def least_loaded(
    request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
) -> Placement:
    """The prefill worker with the fewest tokens ahead, then its partner with the most KV room."""
    raise NotImplementedError


class RoundRobin:
    """Each role in the order of ids, on from the worker chosen last."""

    def __call__(
        self, request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
    ) -> Placement:
        raise NotImplementedError


class PowerOfTwo:
    """Of two workers drawn at random the less loaded one."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(
        self, request: PlacementRequest, prefill: Sequence[WorkerView], decode: Sequence[WorkerView]
    ) -> Placement:
        raise NotImplementedError


DEFAULT_STRATEGY = "least_loaded"

STRATEGIES: Mapping[str, Callable[[Random], Strategy]] = {
    "least_loaded": lambda random: least_loaded,
    "power_of_two": PowerOfTwo,
    "round_robin": lambda random: RoundRobin(),
}
