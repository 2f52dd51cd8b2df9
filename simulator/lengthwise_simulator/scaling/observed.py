"""What a scaler is shown, as Prometheus would show it: rates and percentiles over the last minute,
gauges of this instant."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.scaling.state import DecodeLoad, PoolState, PrefillLoad
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.decode_worker import SimulatedDecodeWorker
from lengthwise_simulator.cluster.fleet import SimulatedFleet
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.prefill_worker import SimulatedPrefillWorker
from lengthwise_simulator.cluster.spec import WorkerGroup
from lengthwise_simulator.results import percentile

INTERVAL_SECONDS: Final = 5.0
WINDOW_SECONDS: Final = 60.0
RECENT_SECONDS: Final = 15.0
ROLES: Final[tuple[Role, ...]] = ("prefill", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedLoad:
    """At one instant."""

    now: float
    pools: Sequence[PoolState]
    prefill: PrefillLoad
    decode: DecodeLoad
    busy_share: dict[Role, float]  # of the ready workers' time, over the window
    finished: Sequence[Journey]  # within the window

    def ready(self, role: Role) -> int:
        """Workers that serve it."""
        return sum(
            pod.phase == "ready" and pod.role == role for state in self.pools for pod in state.pods
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    busy: dict[Role, float]
    workers: dict[Role, int]
    generated: int


class LoadObserver:
    """Looks every `INTERVAL_SECONDS`."""

    def __init__(
        self,
        fleet: SimulatedFleet,
        groups: dict[Role, WorkerGroup],
        journeys: Sequence[Journey],
        block_size: int,
    ) -> None:
        """`journeys`: of the simulation, in their order; more are added to them."""
        self._fleet = fleet
        self._groups = groups
        self._journeys = journeys
        self._block_size = block_size
        self._first = 0  # of those that have not left the window
        self._samples: deque[_Sample] = deque()

    def look(self, now: float, pools: Sequence[PoolState]) -> ObservedLoad:
        since = self._sample(now)
        begin = now - WINDOW_SECONDS
        journeys = self._journeys
        while self._first < len(journeys) and _is_over(journeys[self._first], begin):
            self._first += 1
        recent = journeys[self._first :]
        seconds = max(now - since.at, INTERVAL_SECONDS)
        last = self._samples[-1]
        mean = {
            role: sum(each.workers[role] for each in self._samples) / len(self._samples)
            for role in ROLES
        }
        waiting = sum(each.attempt is None and each.ending is None for each in recent)
        finished = [each for each in recent if each.ending == "done" and each.ended_at >= begin]
        return ObservedLoad(
            now=now,
            pools=pools,
            prefill=self._prefill(now, recent, seconds, waiting, mean["prefill"]),
            decode=self._decode(
                finished,
                arrived=sum(each.arrived_at >= begin for each in recent) / min(now, WINDOW_SECONDS),
                generated=(last.generated - since.generated) / seconds,
                waiting=waiting,
                mean_workers=mean["decode"],
            ),
            busy_share={
                role: (last.busy[role] - since.busy[role]) / seconds / max(mean[role], 1e-9)
                for role in ROLES
            },
            finished=finished,
        )

    def _sample(self, now: float) -> _Sample:
        """Returns the oldest of the window."""
        workers = dict.fromkeys(ROLES, 0)
        busy = dict.fromkeys(ROLES, 0.0)
        generated = 0
        for worker in self._fleet:
            busy[worker.role] += worker.busy_seconds
            workers[worker.role] += not worker.is_gone and not worker.is_draining
            if isinstance(worker, SimulatedDecodeWorker):
                generated += worker.generated_tokens
        self._samples.append(_Sample(now, busy, workers, generated))
        while self._samples[0].at < now - WINDOW_SECONDS:
            self._samples.popleft()
        return self._samples[0]

    def _prefill(
        self,
        now: float,
        journeys: Iterable[Journey],
        seconds: float,
        waiting: int,
        mean_workers: float,
    ) -> PrefillLoad:
        cost = self._fleet.fit(self._groups["prefill"]).model
        workers = [each for each in self._fleet if isinstance(each, SimulatedPrefillWorker)]
        begin = now - WINDOW_SECONDS
        arrived, recent = _zeros(), _zeros()
        served, queued = _zeros(), _zeros()
        ttft: dict[LengthClass, list[float]] = {name: [] for name in LENGTH_CLASSES}
        queue: dict[LengthClass, list[float]] = {name: [] for name in LENGTH_CLASSES}
        for each in journeys:
            name = each.length
            if each.arrived_at >= begin:
                arrived[name] += each.residual_tokens
                served[name] += cost.prefill_seconds(each.residual_tokens)
            if each.arrived_at >= now - RECENT_SECONDS:
                recent[name] += each.residual_tokens
            if each.first_token_at >= begin:
                ttft[name].append(each.ttft_seconds)
                queue[name].append(max(each.began_at - each.arrived_at, 0.0))
        for name in LENGTH_CLASSES:
            waits = [worker.scheduler.queue_length(name).tokens for worker in workers]
            queued[name] = float(sum(waits))
        return PrefillLoad(
            arrived_tokens={name: arrived[name] / seconds for name in LENGTH_CLASSES},
            token_seconds={
                name: served[name] / arrived[name] if arrived[name] else cost.token_seconds
                for name in LENGTH_CLASSES
            },
            queued_tokens=queued,
            ttft_seconds={name: _ninetieth(ttft[name]) for name in LENGTH_CLASSES},
            queue_seconds={name: _ninetieth(queue[name]) for name in LENGTH_CLASSES},
            waiting_requests=waiting,
            mean_workers=mean_workers,
            recent_tokens={name: recent[name] / RECENT_SECONDS for name in LENGTH_CLASSES},
        )

    def _decode(
        self,
        finished: Sequence[Journey],
        *,
        arrived: float,
        generated: float,
        waiting: int,
        mean_workers: float,
    ) -> DecodeLoad:
        workers = [
            each
            for each in self._fleet
            if isinstance(each, SimulatedDecodeWorker) and not each.is_gone
        ]
        states = [worker.state() for worker in workers]
        outputs = [each.generated for each in finished]
        tpots = [each.tpot_seconds for each in finished if each.generated > 1]
        group = self._groups["decode"]
        return DecodeLoad(
            running_requests=sum(state.running_requests for state in states),
            context_tokens=sum(state.context_tokens for state in states),
            queued_requests=sum(state.queued_requests for state in states),
            queued_tokens=sum(state.queued_tokens for state in states),
            blocks_predicted=sum(state.blocks_predicted for state in states),
            blocks_per_worker=group.kv_tokens // self._block_size,
            block_size=self._block_size,
            generated_tokens=generated,
            tpot_seconds=_ninetieth(tpots),
            cost=self._fleet.fit(group).model,
            waiting_requests=waiting,
            mean_workers=mean_workers,
            arrived_requests=arrived,
            output_tokens=sum(outputs) / len(outputs) if outputs else None,
        )


def _is_over(journey: Journey, begin: float) -> bool:
    return journey.ending is not None and journey.ended_at < begin


def _zeros() -> dict[LengthClass, float]:
    return dict.fromkeys(LENGTH_CLASSES, 0.0)


def _ninetieth(values: Iterable[float]) -> float | None:
    ranked = sorted(values)
    return percentile(ranked, 90) if ranked else None
