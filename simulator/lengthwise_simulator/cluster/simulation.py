"""One run: a workload against a cluster."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lengthwise_simulator.cluster.fleet import SimulatedFleet
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.router import SimulatedRouter
from lengthwise_simulator.cluster.spec import ClusterSpec
from lengthwise_simulator.cluster.worker import SimulatedWorker
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.events import EventHeap
from lengthwise_simulator.workload.planned import ArrivingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What became of everything."""

    cluster: ClusterSpec
    journeys: Sequence[Journey]  # that ended, in the order of their arrival
    workers: Sequence[SimulatedWorker]
    seconds: float  # when the last request ended
    num_events: int


class Simulation:
    """Life: construct, `run` once."""

    def __init__(self, cluster: ClusterSpec, workload: Iterable[ArrivingRequest]) -> None:
        """`workload`: first requests in the order of their arrival; what follows them comes by
        itself. Errors: SimulationError."""
        self._cluster = cluster
        self.heap = EventHeap()
        self._workload = iter(workload)
        self.journeys: list[Journey] = []
        self._most_misses: int | None = None
        self._misses = 0
        self._num_open = 0  # requests that have come, or will because others have ended
        self._is_exhausted = False
        self.fleet = SimulatedFleet(cluster, self.heap)
        self._routers = [
            SimulatedRouter(number, cluster, self.heap, self._ended)
            for number in range(cluster.routers)
        ]
        self.fleet.watched_by(self._routers)

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes any more, and all that came has ended."""
        return self._is_exhausted and not self._num_open

    def run(self, most_misses: int | None = None) -> SimulatedRun:
        """Until every request has ended; or until more than `most_misses` have missed their
        objectives, for who asks no more than whether they would."""
        self._most_misses = most_misses
        self._expect_next()
        self.heap.run()
        if not self.journeys:
            raise SimulationError("workload: got no request, expected at least one")
        ended = [each for each in self.journeys if each.ending is not None]
        return SimulatedRun(
            cluster=self._cluster,
            journeys=ended,
            workers=tuple(self.fleet),
            seconds=max((each.ended_at for each in ended), default=self.heap.now),
            num_events=self.heap.num_events,
        )

    def _expect_next(self) -> None:
        request = next(self._workload, None)
        if request is None:
            self._is_exhausted = True
            return
        if request.arrived_at < self.heap.now:
            raise SimulationError(
                f"workload: a request arrives at {request.arrived_at:g} s, after one at"
                f" {self.heap.now:g} s; expected the order of arrival"
            )
        self.heap.at(request.arrived_at, self._arrive_from_workload, request)

    def _arrive_from_workload(self, request: ArrivingRequest) -> None:
        self._num_open += 1
        self._arrive(request)
        self._expect_next()

    def _arrive(self, request: ArrivingRequest) -> None:
        number = len(self.journeys)
        router = self._routers[number % len(self._routers)]
        self.journeys.append(router.arrive(request, number))

    def _ended(self, journey: Journey) -> None:
        self._num_open -= 1
        if not journey.meets(self._cluster.policies.objectives):
            self._misses += 1
            if self._most_misses is not None and self._misses > self._most_misses:
                self.heap.stop()
        follow_up = journey.request.follow_up
        if follow_up is not None and journey.ending == "done":
            self._num_open += 1
            self.heap.after(follow_up.think_seconds, self._arrive, follow_up)
