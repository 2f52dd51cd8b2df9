"""What a placement strategy is, and what may be set about placement."""

from dataclasses import dataclass, field, fields
from typing import ClassVar, Protocol

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRule


class Strategy(Protocol):
    """Decides where requests run."""

    @property
    def rules(self) -> tuple[PlacementRule, ...]:
        """Those that its placements may name."""

    def __call__(self, asked: PlacementInput) -> Placement:
        """Raises NoCandidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPolicy:
    """When a prefill worker changes between the pools of short and of long prompts.

    The pressure of a worker is `queue_weight` * its queue + `deviation_weight` * what a prompt
    placed there now would miss its TTFT SLO by - `utilisation_weight` if it computes now, times in
    units of that SLO; that of a pool is the 90th percentile of its workers (LAPS, which gives no
    values). A worker moves to the pool with pressure P from the one with pressure Q when
    P > (1 + tolerance) * Q + idle_pressure, both averaged over the cool-down.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    queue_weight: float = 1.0  # of a worker's queue in its pressure
    deviation_weight: float = 1.0  # of missing the objective in it
    utilisation_weight: float = 0.05  # taken off it while the worker computes
    tolerance: float = 0.5  # a pool takes a worker when its pressure is larger by this share
    idle_pressure: float = 0.25  # queues of a quarter of the SLO: no pool is short of workers
    cooldown_seconds: float = 5.0  # between two moves
    drain_seconds: float = 30.0  # a worker that is not empty by then stays where it was

    def __post_init__(self) -> None:
        for each in fields(self):
            require_at_least(each.name, getattr(self, each.name), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """What an operator may set about placement, beside the strategy's name."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    local_prefill: bool = True
    """Whether decode workers may compute prompts themselves: where that gives the first token
    earlier, and where no prefill worker is there."""

    objectives: Objectives = field(default_factory=Objectives)
    pools: PoolPolicy = field(default_factory=PoolPolicy)
