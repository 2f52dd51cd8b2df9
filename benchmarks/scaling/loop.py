"""The closed loop of the autoscaling simulation: requests, a release, and who decides about it.

The last pods drain for two minutes after the last request; what is not done then is late.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lengthwise_policy.scaling.state import Action
from lengthwise_policy.types import Role
from scaling.plant import INTERVAL_SECONDS, ROLES, TICK_SECONDS, Plant, Seen
from scaling.workers import Request

DRAIN_SECONDS = 120.0


class Controller(Protocol):
    """Decides like a Scaler, from what is seen."""

    def decide(self, seen: Seen) -> Sequence[Action]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a controller achieved."""

    requests: int
    in_time: float  # share of them
    worker_seconds: float  # of pods that exist, ready or not
    peak_workers: int
    changes: int  # of replicas
    flips: int
    workers_at: tuple[tuple[float, dict[Role, int]], ...]  # serving, every interval
    replicas_at: tuple[tuple[float, dict[str, int]], ...]


def simulate(
    plant: Plant, controller: Controller, requests: Sequence[Request], seconds: float
) -> Outcome:
    """Plays the requests against the plant."""
    coming = deque(requests)
    now, look_at, peak = 0.0, 0.0, 0
    workers_at, replicas_at = [], []
    while now < seconds + DRAIN_SECONDS:
        now = round(now + TICK_SECONDS, 6)
        while coming and coming[0].at <= now:
            plant.arrive(coming.popleft())
        plant.tick(now)
        if now < look_at:
            continue
        look_at += INTERVAL_SECONDS
        serving: dict[Role, int] = {role: len(plant.serving(now, role)) for role in ROLES}
        workers_at.append((now, serving))
        plant.apply(now, controller.decide(plant.see(now)))
        replicas_at.append((now, dict(plant.replicas)))
        peak = max(peak, sum(map(len, plant.workers.values())))
    return Outcome(
        requests=len(requests),
        in_time=sum(request.is_in_time for request in requests) / max(len(requests), 1),
        worker_seconds=plant.worker_seconds,
        peak_workers=peak,
        changes=plant.changes,
        flips=plant.flips,
        workers_at=tuple(workers_at),
        replicas_at=tuple(replicas_at),
    )
