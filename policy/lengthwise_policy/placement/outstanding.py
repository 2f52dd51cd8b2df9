"""What this router has placed at one worker, and how much of it the worker's status shows already.

A placement is unseen until a status has come that left SEEN_SECONDS after it or later: an earlier
one may have been on its way already, and a later one counts the request itself. Counted by both it
would make every queue look twice as long.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Self

from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.placement import PlacementRequest
from lengthwise_policy.placement.worker_view import WorkerView, wait_seconds
from lengthwise_policy.types import WorkerId

SEEN_SECONDS = 0.05
"""Within which a request reaches its worker: two calls, and the decode worker's answer between two
of its steps."""

REACH_SECONDS = 0.01
"""The same, on average."""

STATUSES_PER_SECOND = 1500
"""That a router asks all its workers for together. One costs it about 100 microseconds, nine tenths
of them gRPC's: its threads, and the passes of the event loop."""

SHORTEST_INTERVAL = 0.05
LONGEST_INTERVAL = 2 / 3
"""Seconds between two statuses of a worker that changes. The longest is a third of the silence
after which a worker is given up: two may be late."""


MAX_REFUSALS = 8
"""By prefill workers that were crowded or are left for a newcomer, of one request. Each costs it a
call; in fleet/herding.py with 8 routers and statuses every 0.5 s three leave a queue of 80 ms at
p99, eight 67 ms."""

LEAST_GAIN_SECONDS = 0.1
"""That a prompt is predicted to be computed earlier elsewhere, to be placed anew for it: far more
than the calls take, and than what predictions of a queue are wrong by."""


def status_interval(num_workers: int) -> float:
    """Seconds between the statuses of each of so many workers: the more there are, the less does
    it matter that one looks older than it is."""
    return min(max(SHORTEST_INTERVAL, num_workers / STATUSES_PER_SECOND), LONGEST_INTERVAL)


@dataclass(slots=True, kw_only=True, eq=False)
class Placed:
    """One request's part at one worker."""

    tokens: int  # residual prompt tokens
    short_tokens: int = 0  # the same where they are of class "short" there, else 0
    local_tokens: int = 0  # the same where a decode worker computes them, until it has


@dataclass(slots=True)
class Outstanding:
    """Sums over what is placed."""

    requests: int = 0
    local_tokens: int = 0
    unseen_tokens: int = 0
    unseen_short_tokens: int = 0
    _status_at: float = -inf
    _unseen: dict[Placed, float] = field(default_factory=dict)  # when it was placed, oldest first

    @property
    def unseen_requests(self) -> int:
        return len(self._unseen)

    @property
    def fresh(self) -> tuple[int, int]:
        """Requests and tokens that reached the worker after its last status had left: other routers
        have placed as much there."""
        since, requests, tokens = self._status_at - REACH_SECONDS, 0, 0
        for placed, at in reversed(self._unseen.items()):
            if at < since:
                break
            requests += 1
            tokens += placed.tokens
        return requests, tokens

    def add(self, placed: Placed, now: float) -> None:
        self.requests += 1
        self.local_tokens += placed.local_tokens
        self.unseen_tokens += placed.tokens
        self.unseen_short_tokens += placed.short_tokens
        self._unseen[placed] = now

    def remove(self, placed: Placed) -> None:
        """The request has ended there."""
        self.requests -= 1
        self.computed(placed)
        if placed in self._unseen:
            self._seen(placed)

    def computed(self, placed: Placed) -> None:
        """The decode worker has computed the prompt."""
        self.local_tokens -= placed.local_tokens
        placed.local_tokens = 0

    def status_came(self, now: float) -> None:
        self._status_at = now
        while self._unseen:
            placed, at = next(iter(self._unseen.items()))
            if now - at < SEEN_SECONDS:
                break
            self._seen(placed)

    def _seen(self, placed: Placed) -> None:
        del self._unseen[placed]
        self.unseen_tokens -= placed.tokens
        self.unseen_short_tokens -= placed.short_tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueuedPrompt:
    """One that this router has sent to a prefill worker, and of which no token has come."""

    worker_id: WorkerId
    num_tokens: int
    residual_tokens: int  # to be computed there
    refusals: int  # of workers it was sent to before

    @classmethod
    def of(cls, request: PlacementRequest, worker_id: WorkerId) -> Self:
        return cls(
            worker_id=worker_id,
            num_tokens=request.num_tokens,
            residual_tokens=request.residual_tokens(worker_id),
            refusals=len(request.blame.workers),
        )


def left_for_newcomer(
    prompts: Sequence[QueuedPrompt],
    newcomer: WorkerView,
    workers: Iterable[WorkerView],
    other_routers: int,
) -> list[QueuedPrompt]:
    """Which prompts to place anew, since a prefill worker has come that has nothing to do.

    `prompts` in the order in which they were sent, of which those sent last are the first to leave:
    they wait longest, have hardly begun, and may still be in time. One leaves that would be
    computed LEAST_GAIN_SECONDS earlier at the newcomer, which has none of its prefix. Other routers
    do the same meanwhile.
    """
    views = {view.worker_id: view for view in workers}
    ahead = {worker_id: view.tokens_ahead for worker_id, view in views.items()}
    coming = newcomer.tokens_ahead
    leaving = []
    for prompt in reversed(prompts):
        view = views.get(prompt.worker_id)
        if view is None or prompt.refusals >= MAX_REFUSALS or not _may_take(newcomer, view, prompt):
            continue
        stays = wait_seconds(view.cost, ahead[prompt.worker_id])
        if prompt.residual_tokens <= view.short_tokens:
            stays = min(stays, view.short_wait_seconds)
        goes = wait_seconds(newcomer.cost, coming + prompt.num_tokens)
        if stays - goes < LEAST_GAIN_SECONDS:
            continue
        leaving.append(prompt)
        left = ahead[prompt.worker_id] - prompt.residual_tokens * (1 + other_routers)
        ahead[prompt.worker_id] = max(left, 0)
        coming += prompt.num_tokens * (1 + other_routers)
    return leaving


def _may_take(newcomer: WorkerView, view: WorkerView, prompt: QueuedPrompt) -> bool:
    length = length_class(prompt.num_tokens, newcomer.short_tokens)
    return (
        newcomer.worker_id != view.worker_id
        and newcomer.kind == view.kind
        and newcomer.paired_tokens >= prompt.num_tokens
        and newcomer.length_class in (None, length)
    )
