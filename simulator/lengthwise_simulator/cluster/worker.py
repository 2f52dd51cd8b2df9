"""What a simulated worker is, whichever its role: blocks, a link, statuses, and steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.errors import PolicyError, QueueFull
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.types import PromptChunk, RequestId, Role, WorkerId
from lengthwise_simulator.cluster.journey import JourneyAttempt
from lengthwise_simulator.cluster.network import NetworkPort
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cluster.statuses import ReportedState, StatusFeed
from lengthwise_simulator.events import EventHeap


class SimulatedWorker(ABC):
    """Takes what has come between its steps, as the engine's loop does."""

    role: ClassVar[Role]

    def __init__(
        self, name: str, group: WorkerGroup, cluster: ClusterSpec, fit: CostFit, heap: EventHeap
    ) -> None:
        self.worker_id = WorkerId(name)
        self.group = group
        self.fit = fit
        self.port = NetworkPort(bytes_per_second=group.link_bytes_per_second)
        self.blocks = PrefixCache(
            group.kv_tokens // cluster.block_size, enabled=cluster.policies.prefix_caching
        )
        self.busy_seconds = 0.0
        self.num_steps = 0
        self.is_gone = False  # nothing that reaches it has an effect any more
        self._on_idle: Callable[[], None] | None = None  # of one that drains
        self._cluster = cluster
        self._heap = heap
        self._inbox: list[tuple[Callable[[JourneyAttempt], None], JourneyAttempt]] = []
        self.feed = StatusFeed(
            state=self.state,
            blocks=self.blocks,
            cluster=cluster,
            began_at=heap.now + cluster.call_seconds,  # when routers' calls have come
        )

    @abstractmethod
    def state(self) -> ReportedState:
        """As its next status shows it."""

    @abstractmethod
    def _turn(self) -> None:
        """Unless a step runs: takes what has come, and begins the next one."""

    @abstractmethod
    def _attempt(self, request_id: RequestId) -> JourneyAttempt: ...

    @property
    @abstractmethod
    def num_requests(self) -> int:
        """That it holds, and that have just come."""

    @property
    def is_draining(self) -> bool:
        return self._on_idle is not None

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Refuses what is new; `on_idle` is called once all else has ended."""
        self._on_idle = on_idle
        self.feed.changed(self._heap.now)
        self._turn()

    def _end_if_idle(self) -> None:
        if self._on_idle is not None and not self.num_requests and not self.is_gone:
            self._on_idle()

    @abstractmethod
    def fail(self) -> None:
        """Its process ends."""

    def _receive(self, action: Callable[[JourneyAttempt], None], attempt: JourneyAttempt) -> None:
        """What comes at one instant is taken in one turn."""
        if self.is_gone:
            return
        if not self._inbox:
            self._heap.after(0.0, self._turn)
        self._inbox.append((action, attempt))

    def _take_inbox(self) -> bool:
        """Whether anything had come."""
        inbox, self._inbox = self._inbox, []
        for action, attempt in inbox:
            action(attempt)
        return bool(inbox)

    def _answer(self, action: Callable[..., None], *arguments: Any) -> None:
        """The caller is told."""
        self._heap.after(self._cluster.call_seconds, action, *arguments)

    def _refuse(self, attempt: JourneyAttempt, error: PolicyError) -> None:
        busy = isinstance(error, QueueFull)
        failed = partial(attempt.journey.router.attempt_failed, busy=busy)
        self._answer(failed, attempt, Blame.of(self.worker_id), str(error))

    def _begin_step(
        self,
        chunks: Sequence[PromptChunk],
        requests: int,
        context: int,
        ended: Callable[..., None],
        *arguments: Any,
    ) -> None:
        """`ended(*arguments)` is called when it has."""
        now = self._heap.now
        for chunk in chunks:
            journey = self._attempt(chunk.request_id).journey
            journey.computed_tokens += chunk.num_tokens
            if journey.began_at != journey.began_at:
                journey.began_at = now
        pairs = [(chunk.num_tokens, chunk.start) for chunk in chunks]
        is_empty = not pairs and not requests  # blocks were taken from others, that is all
        seconds = 0.0 if is_empty else self.group.costs.step_seconds(pairs, requests, context)
        self.busy_seconds += seconds
        self.num_steps += 1
        self._heap.after(seconds, ended, *arguments)
