"""One run: a workload against a cluster."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.types import WorkerId
from lengthwise_simulator.cluster.decode_worker import SimulatedDecodeWorker
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.picture import SimulatedWorker
from lengthwise_simulator.cluster.prefill_worker import SimulatedPrefillWorker
from lengthwise_simulator.cluster.router import SimulatedRouter
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import measured_by_workers
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.events import EventHeap
from lengthwise_simulator.workload.planned import ArrivingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What became of everything."""

    cluster: ClusterSpec
    journeys: Sequence[Journey]  # that ended, in the order of their arrival
    workers: Sequence[SimulatedWorker]
    seconds: float  # of the simulation
    num_events: int


class Simulation:
    """Life: construct, `run` once."""

    def __init__(self, cluster: ClusterSpec, workload: Iterable[ArrivingRequest]) -> None:
        """`workload`: first requests in the order of their arrival; what follows them comes by
        itself. Errors: SimulationError."""
        self._cluster = cluster
        self._heap = EventHeap()
        self._workload = iter(workload)
        self._journeys: list[Journey] = []
        self._most_misses: int | None = None
        self._misses = 0
        self._fits: dict[int, CostFit] = {}
        workers = [self._make(name, group) for name, group in cluster.workers()]
        self._workers: dict[WorkerId, SimulatedWorker] = {each.worker_id: each for each in workers}
        self._routers = [
            SimulatedRouter(number, self._workers, cluster, self._heap, self._ended)
            for number in range(cluster.routers)
        ]

    def run(self, most_misses: int | None = None) -> SimulatedRun:
        """Until every request has ended; or until more than `most_misses` have missed their
        objectives, for who asks no more than whether they would."""
        self._most_misses = most_misses
        self._expect_next()
        self._heap.run()
        if not self._journeys:
            raise SimulationError("workload: got no request, expected at least one")
        return SimulatedRun(
            cluster=self._cluster,
            journeys=[each for each in self._journeys if each.ending is not None],
            workers=tuple(self._workers.values()),
            seconds=self._heap.now,
            num_events=self._heap.num_events,
        )

    def _make(self, name: str, group: WorkerGroup) -> SimulatedWorker:
        fit = self._fits.get(id(group))
        policies = self._cluster.policies
        if fit is None:
            is_prefill = group.role == "prefill"
            tokens = policies.prefill.chunk_tokens if is_prefill else policies.decode.step_tokens
            fit = self._fits[id(group)] = measured_by_workers(
                group.costs,
                longest_prompt=min(self._cluster.longest_prompt, group.kv_tokens),
                most_requests=0 if is_prefill else policies.decode.max_running,
                chunk_tokens=tokens,
            )
        kind = SimulatedPrefillWorker if group.role == "prefill" else SimulatedDecodeWorker
        return kind(name, group, self._cluster, fit, self._heap)

    def _expect_next(self) -> None:
        request = next(self._workload, None)
        if request is None:
            return
        if request.arrived_at < self._heap.now:
            raise SimulationError(
                f"workload: a request arrives at {request.arrived_at:g} s, after one at"
                f" {self._heap.now:g} s; expected the order of arrival"
            )
        self._heap.at(request.arrived_at, self._arrive_from_workload, request)

    def _arrive_from_workload(self, request: ArrivingRequest) -> None:
        self._arrive(request)
        self._expect_next()

    def _arrive(self, request: ArrivingRequest) -> None:
        number = len(self._journeys)
        router = self._routers[number % len(self._routers)]
        self._journeys.append(router.arrive(request, number))

    def _ended(self, journey: Journey) -> None:
        if not journey.meets(self._cluster.policies.objectives):
            self._misses += 1
            if self._most_misses is not None and self._misses > self._most_misses:
                self._heap.stop()
        follow_up = journey.request.follow_up
        if follow_up is not None and journey.ending == "done":
            self._heap.after(follow_up.think_seconds, self._arrive, follow_up)
