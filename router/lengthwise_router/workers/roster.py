"""Which addresses discovery proposes, which workers are there, whatever they serve, and what
placement sees of those that requests may use.

Views are kept: a request looks anew only at workers that have changed since the last one did.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Role, WorkerId
from lengthwise_router.workers.worker import Worker


@dataclass(frozen=True, slots=True)
class Seen:
    """What a usable worker was seen as."""

    model: str
    role: Role
    worker_id: WorkerId


class Roster:
    """Changed by the fleet alone."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        """By address: also those that discovery has withdrawn and that are connected still."""
        self._addresses: frozenset[str] = frozenset()
        self._changed: set[Worker] = set()
        self._unknown: set[Worker] = set()  # neither usable nor known to be of no use
        self._seen: dict[Worker, Seen] = {}
        self._by_id: dict[WorkerId, Worker] = {}
        self._views: dict[tuple[str, Role], dict[Worker, WorkerView]] = defaultdict(dict)
        self._listed: dict[str, tuple[Sequence[WorkerView], Sequence[WorkerView]]] = {}

    @property
    def addresses(self) -> frozenset[str]:
        """host:port, as discovery proposes them."""
        return self._addresses

    @addresses.setter
    def addresses(self, addresses: frozenset[str]) -> None:
        others = self._addresses ^ addresses
        self._addresses = addresses
        self._changed.update(self.workers[each] for each in others & self.workers.keys())

    def add(self, worker: Worker) -> None:
        self.workers[worker.address] = worker
        self._changed.add(worker)

    def remove(self, worker: Worker) -> None:
        """It is lost, and does not come back."""
        del self.workers[worker.address]
        self._changed.discard(worker)
        self._forget(worker)

    def changed(self, worker: Worker) -> None:
        """It may have to be seen as another one, or not at all."""
        if self.workers.get(worker.address) is worker:
            self._changed.add(worker)

    def views(self, model: str) -> tuple[Sequence[WorkerView], Sequence[WorkerView]]:
        """The prefill and the decode workers that policies may choose from. One that discovery has
        withdrawn is as good as draining: it goes on with what it has."""
        self._refresh()
        if model not in self._listed:
            views = self._views
            self._listed[model] = (
                list(views[model, "prefill"].values()),
                list(views[model, "decode"].values()),
            )
        return self._listed[model]

    def worker(self, worker_id: WorkerId) -> Worker:
        """One of the views'. Errors: KeyError."""
        self._refresh()
        return self._by_id[worker_id]

    def is_complete(self, model: str) -> bool:
        """Whether it is known of every address that discovery proposes which worker is there, or
        that it is none of this model's."""
        self._refresh()
        if not self._addresses <= self.workers.keys():
            return False
        return not any(
            worker.address in self._addresses and worker.model in ("", model)
            for worker in self._unknown
        )

    def _refresh(self) -> None:
        while self._changed:
            self._look(self._changed.pop())

    def _look(self, worker: Worker) -> None:
        self._forget(worker)
        if not worker.is_usable:
            if worker.condition != "incompatible":
                self._unknown.add(worker)
            return
        view = worker.view()
        if worker.address not in self._addresses:
            view = replace(view, draining=True)
        self._seen[worker] = seen = Seen(worker.model, worker.role, view.worker_id)
        self._by_id[seen.worker_id] = worker
        self._views[seen.model, seen.role][worker] = view
        self._listed.pop(seen.model, None)

    def _forget(self, worker: Worker) -> None:
        self._unknown.discard(worker)
        seen = self._seen.pop(worker, None)
        if seen is None:
            return
        del self._views[seen.model, seen.role][worker]
        self._listed.pop(seen.model, None)
        if self._by_id.get(seen.worker_id) is worker:
            del self._by_id[seen.worker_id]
