"""Pools and pods by short names, for the tests of scaling."""

from collections.abc import Mapping, Sequence
from typing import Final

from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import (
    Action,
    Demand,
    Flip,
    FlipRule,
    Group,
    Hold,
    Pod,
    PodPhase,
    Pool,
    PoolState,
    Reason,
    Scale,
    ScalingRule,
)

PREFILL: Final[Group] = ("prefill", None)
DECODE: Final[Group] = ("decode", None)


def need(workers: float) -> Demand:
    """Work for so many workers; 0 is idle."""
    return Demand(workers=workers, reason=Reason("throughput", f"{workers}"), is_idle=not workers)


def pods(pool: Pool, *phases: PodPhase, running: Sequence[int] = ()) -> tuple[Pod, ...]:
    """Pods `NAME-0`, `NAME-1`, ... of the pool's role."""
    return tuple(
        Pod(
            name=f"{pool.name}-{index}",
            role=pool.role,
            phase=phase,
            running_requests=running[index] if running else 0,
        )
        for index, phase in enumerate(phases)
    )


def ready(pool: Pool, number: int) -> PoolState:
    phases: list[PodPhase] = ["ready"] * number
    return PoolState(pool=pool, replicas=number, pods=pods(pool, *phases))


def stuck(pool: Pool, running: int, unschedulable: int) -> PoolState:
    """Some of its pods can run nowhere."""
    phases: list[PodPhase] = ["ready"] * running
    phases += ["unschedulable"] * unschedulable
    return PoolState(pool=pool, replicas=len(phases), pods=pods(pool, *phases))


def rule(action: Action) -> ScalingRule | FlipRule:
    return action.rule


def scales(actions: Sequence[Action]) -> dict[str, int]:
    """Replicas written, by pool."""
    return {action.pool: action.replicas for action in actions if isinstance(action, Scale)}


def flips(actions: Sequence[Action]) -> list[Flip]:
    return [action for action in actions if isinstance(action, Flip)]


def holds(actions: Sequence[Action]) -> dict[str, str]:
    """Rules of the pools that are held."""
    return {action.pool: rule(action) for action in actions if isinstance(action, Hold)}


def watch(
    scaler: Scaler,
    begin: float,
    seconds: float,
    pools: Sequence[PoolState],
    demands: Mapping[Group, Demand],
) -> list[Action]:
    """Decides every 5 s about what never changes, and returns the last decision."""
    actions: list[Action] = []
    for index in range(int(seconds / 5) + 1):
        actions = scaler.decide(begin + 5.0 * index, pools, demands)
    return actions
