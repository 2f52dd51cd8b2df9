"""The workers of one served model: which of them requests may use, and what they have in common."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median_low

from lengthwise_policy.cost.model import typical_cost
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS
from lengthwise_policy.placement.outstanding import QueuedPrompt, left_for_newcomer
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Role, WorkerId
from lengthwise_router.labels import Condition
from lengthwise_router.workers.prefixes import Prefixes
from lengthwise_router.workers.roster import Roster
from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.capabilities import held_adapters


class ModelWorkers:
    """What placement sees of a fleet."""

    def __init__(self, model: str, roster: Roster) -> None:
        self.model = model
        self._roster = roster
        self._notified: set[Wakeup] = set()
        self._queued: dict[QueuedPrompt, Callable[[], None]] = {}  # as they were sent
        self.prefixes = Prefixes()
        self.short_tokens = DEFAULT_SHORT_TOKENS
        """Where most workers that compute prompts draw the line between the length classes."""
        self._adapters: Mapping[str, str] = {}
        self.has_heard = False
        """Whether any worker has ever told what it holds."""
        self.other_routers = 0
        """That watch the same workers, as these tell."""

    @property
    def all(self) -> list[Worker]:
        """Those that serve the model now, or did last."""
        # A copy: metrics look at it from another thread.
        workers = tuple(self._roster.workers.values())
        return [worker for worker in workers if worker.model == self.model]

    def num_workers(self, role: Role, condition: Condition) -> int:
        return sum(worker.role == role and worker.condition == condition for worker in self.all)

    @property
    def is_complete(self) -> bool:
        """Whether it is known of every address that discovery proposes which worker is there, or
        that it is none of this model's."""
        return self._roster.is_complete(self.model)

    @property
    def capacity_tokens(self) -> int:
        """Of the largest decode worker that takes new requests; 0 while there is none."""
        _, decode = self.views()
        return max((view.capacity_tokens for view in decode if not view.draining), default=0)

    def views(self) -> tuple[Sequence[WorkerView], Sequence[WorkerView]]:
        """The prefill and the decode workers that policies may choose from. One that discovery has
        withdrawn is as good as draining: it goes on with what it has."""
        return self._roster.views(self.model)

    def worker(self, worker_id: WorkerId) -> Worker:
        """A worker of the views. Errors: KeyError."""
        return self._roster.worker(worker_id)

    @property
    def fingerprint(self) -> str:
        """Of the weights that most workers serve; empty while there is none."""
        found = [
            worker.status.model_fingerprint
            for worker in self._usable()
            if worker.status is not None
        ]
        return max(found, key=found.count, default="")

    @property
    def adapters(self) -> Mapping[str, str]:
        """Keys of the adapters that workers hold, by name; of several versions, what most hold.
        While there are no workers, those that the last ones held."""
        views = [view for views in self.views() for view in views]
        keys = Counter(key for view in views for key in held_adapters(view.capabilities))
        if views:
            self.has_heard = True
            # The last one of a name counts.
            held = sorted(keys, key=lambda key: (keys[key], key))
            self._adapters = {key.partition("@")[0]: key for key in held}
        return self._adapters

    @contextmanager
    def notifying(self, wakeup: Wakeup) -> Iterator[None]:
        """Within, it rings whenever a request may find a worker that it did not find before."""
        self._notified.add(wakeup)
        try:
            yield
        finally:
            self._notified.discard(wakeup)

    def notify(self) -> None:
        for wakeup in self._notified:
            wakeup.ring()

    @contextmanager
    def queued(self, prompt: QueuedPrompt, leave: Callable[[], None]) -> Iterator[None]:
        """Within, `leave` is called when the prompt had better be placed anew, for a prefill worker
        has come."""
        self._queued[prompt] = leave
        try:
            yield
        finally:
            del self._queued[prompt]

    def prefill_worker_came(self, worker_id: WorkerId) -> None:
        """What waits elsewhere may be computed there sooner."""
        if not self._queued:
            return
        self.compare()  # what its steps may take
        prefill, _ = self.views()
        newcomer = next((view for view in prefill if view.worker_id == worker_id), None)
        if newcomer is None:
            return
        waiting = tuple(self._queued)
        for prompt in left_for_newcomer(waiting, newcomer, prefill, self.other_routers):
            self._queued[prompt]()

    def compare(self) -> None:
        """Takes from the workers the boundary of the length classes, how many routers they have,
        and what newcomers' steps may take."""
        usable = list(self._usable())
        routers = [worker.status.routers for worker in usable if worker.status is not None]
        self.other_routers = max(0, max(routers, default=0) - 1)
        computing = [worker for worker in usable if worker.role == "prefill"] or usable
        if computing:
            self.short_tokens = median_low(worker.short_tokens for worker in computing)
        newcomers = [worker for worker in self.all if worker.is_newcomer]
        for role in {worker.role for worker in newcomers}:
            peers = [
                cost
                for worker in self.all
                if worker.role == role and (cost := worker.measured_cost) is not None
            ]
            for newcomer in newcomers if peers else ():
                if newcomer.role == role:
                    newcomer.presume(typical_cost(peers))

    def _usable(self) -> Iterator[Worker]:
        for worker in self._roster.workers.values():
            if worker.model == self.model and worker.is_usable:
                yield worker
