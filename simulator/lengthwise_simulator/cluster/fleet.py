"""The workers that are there, and those that were: failures end them, pods take their place."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.types import WorkerId
from lengthwise_simulator.cluster.decode_worker import SimulatedDecodeWorker
from lengthwise_simulator.cluster.prefill_worker import SimulatedPrefillWorker
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cluster.worker import SimulatedWorker
from lengthwise_simulator.cost.profile import measured_by_workers
from lengthwise_simulator.events import EventHeap


class WorkerWatcher(Protocol):
    """A router."""

    def joined(self, worker: SimulatedWorker) -> None: ...
    def lost(self, worker: SimulatedWorker) -> None: ...


class SimulatedFleet:
    """A place in it is named as in `ClusterSpec.workers`; later pods there add a number."""

    def __init__(self, cluster: ClusterSpec, heap: EventHeap) -> None:
        self._cluster = cluster
        self._heap = heap
        self._fits: dict[WorkerGroup, CostFit] = {}
        self._watchers: list[WorkerWatcher] = []
        self._number = 0
        self._left: list[SimulatedWorker] = []  # they drain, or are gone
        self._failed: set[str] = set()  # places
        self._present = {
            name: self._make(WorkerId(name), group) for name, group in cluster.workers()
        }
        for failure in cluster.failures:
            heap.at(failure.at, self._fail, failure.worker)

    def __iter__(self) -> Iterator[SimulatedWorker]:
        """Those that have left their places last."""
        yield from self._present.values()
        yield from self._left

    def fit(self, group: WorkerGroup) -> CostFit:
        """What its workers have measured of their steps."""
        found = self._fits.get(group)
        if found is None:
            policies, is_prefill = self._cluster.policies, group.role == "prefill"
            tokens = policies.prefill.chunk_tokens if is_prefill else policies.decode.step_tokens
            found = self._fits[group] = measured_by_workers(
                group.costs,
                longest_prompt=min(self._cluster.longest_prompt, group.kv_tokens),
                most_requests=0 if is_prefill else policies.decode.max_running,
                chunk_tokens=tokens,
            )
        return found

    def at(self, place: str) -> SimulatedWorker | None:
        """Who is there now."""
        return self._present.get(place)

    def start(self, place: str, group: WorkerGroup) -> None:
        """A pod begins to serve."""
        self._number += 1
        worker = self._make(WorkerId(f"{place}+{self._number}"), group)
        self._present[place] = worker
        for watcher in self._watchers:
            self._heap.after(2 * self._cluster.call_seconds, self._meet, watcher, worker)

    def _meet(self, watcher: WorkerWatcher, worker: SimulatedWorker) -> None:
        if not worker.is_gone:  # it may have failed before anybody's call came
            watcher.joined(worker)

    def drain(self, place: str, then: Callable[[], None]) -> None:
        """The worker takes nothing new, and is gone once it is idle; `then` is called then."""
        worker = self._present.pop(place, None)
        if worker is not None:
            self._left.append(worker)
            worker.drain(partial(self._drained, worker, then))
        else:
            self._failed.discard(place)  # no pod takes the place
            then()

    def _drained(self, worker: SimulatedWorker, then: Callable[[], None]) -> None:
        worker.is_gone = True
        self._lose(worker)
        then()

    def _lose(self, worker: SimulatedWorker) -> None:
        for watcher in self._watchers:
            self._heap.after(self._cluster.call_seconds, watcher.lost, worker)

    def watched_by(self, watchers: Iterable[WorkerWatcher]) -> None:
        """They have met the workers that are there."""
        for watcher in watchers:
            self._watchers.append(watcher)
            for worker in self._present.values():
                watcher.joined(worker)

    def _make(self, name: WorkerId, group: WorkerGroup) -> SimulatedWorker:
        kind = SimulatedPrefillWorker if group.role == "prefill" else SimulatedDecodeWorker
        return kind(name, group, self._cluster, self.fit(group), self._heap)

    def _fail(self, place: str) -> None:
        worker = self._present.pop(place, None)
        if worker is None:
            return  # another has failed there, and its successor still starts
        worker.fail()
        self._left.append(worker)
        self._lose(worker)
        self._failed.add(place)
        self._heap.after(worker.group.start_seconds, self._restart, place, worker.group)

    def _restart(self, place: str, group: WorkerGroup) -> None:
        if place in self._failed:
            self._failed.remove(place)
            self.start(place, group)
