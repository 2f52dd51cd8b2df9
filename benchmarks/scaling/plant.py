"""A release in simulation: two pools of workers, a router, and a scraped view of them.

A controller sees what Prometheus would show it, every few seconds: rates and percentiles over the
last minute, gauges of this instant. Its actions take time: pods start, drain and change roles.

Equal arguments give equal results; what a controller sees is what it could see.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.scaling.state import (
    Action,
    DecodeLoad,
    Flip,
    Hold,
    Pod,
    PodPhase,
    Pool,
    PoolState,
    PrefillLoad,
)
from lengthwise_policy.types import Role
from scaling.workers import (
    BLOCK_SIZE,
    BLOCKS,
    COST,
    FLIP_SECONDS,
    START_SECONDS,
    Request,
    Worker,
)

TICK_SECONDS: Final = 0.1
INTERVAL_SECONDS: Final = 5.0
WINDOW_SECONDS: Final = 60.0
RECENT_SECONDS: Final = 15.0
ROLES: Final[tuple[Role, ...]] = ("prefill", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a controller is shown."""

    now: float
    pools: tuple[PoolState, ...]
    prefill: PrefillLoad
    decode: DecodeLoad
    busy_share: dict[Role, float]  # of the ready workers' time, over the window
    arrived: Sequence[Request]  # within the window
    finished: Sequence[Request]


def percentile(values: Sequence[float], share: float = 0.9) -> float | None:
    """By nearest rank; None without values."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(-int(-share * len(ranked) // 1) - 1, 0)]


class Plant:
    """Two pools, called like their roles."""

    def __init__(self, pools: Sequence[Pool], replicas: dict[str, int]) -> None:
        self.pools = tuple(pools)
        self.replicas = dict(replicas)
        self.workers: dict[str, list[Worker]] = {pool.name: [] for pool in pools}
        self.schedulable = dict.fromkeys(replicas, 10**6)  # pods that can run at once, by pool
        self.at_router: list[Request] = []
        self.prefilled: list[Request] = []
        self.arrived: deque[Request] = deque()
        self.first: deque[Request] = deque()
        self.finished: deque[Request] = deque()
        self.worker_seconds = 0.0
        self.flips = 0
        self.changes = 0
        self._made = 0
        self._samples: deque[tuple[float, dict[Role, float], dict[Role, int], float]] = deque()
        self._busy: dict[Role, float] = dict.fromkeys(ROLES, 0.0)
        self._generated = 0.0
        for pool in pools:
            for _ in range(replicas[pool.name]):
                self._make(pool, -START_SECONDS)

    def serving(self, now: float, role: Role) -> list[Worker]:
        return [
            worker
            for workers in self.workers.values()
            for worker in workers
            if worker.role == role and worker.takes_work(now)
        ]

    def arrive(self, request: Request) -> None:
        self.arrived.append(request)
        self.at_router.append(request)
        self._place_prompts(request.at)

    def tick(self, now: float) -> None:
        """The last TICK_SECONDS until `now`."""
        self._place_prompts(now)
        for pool in self.pools:
            for worker in tuple(self.workers[pool.name]):
                busy, generated = worker.busy_seconds, worker.generated
                self._computed(worker.prefill_until(now))
                self.finished += worker.decode(now, TICK_SECONDS)
                self._busy[worker.role] += worker.busy_seconds - busy
                self._generated += worker.generated - generated
                self._change(now, pool, worker)
                self.worker_seconds += TICK_SECONDS if worker.ready_at < inf else 0.0
        decoders = self.serving(now, "decode")
        if decoders:
            for request in self.prefilled:
                chosen = min(decoders, key=lambda worker: (worker.num_requests, worker.name))
                chosen.queue_decode(now, request)
            self.prefilled.clear()

    def apply(self, now: float, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Hold):
                continue
            workers = self.workers[action.pool]
            if isinstance(action, Flip):
                worker = next(worker for worker in workers if worker.name == action.pod)
                worker.target = action.role
                self.flips += 1
                continue
            self.changes += action.replicas != self.replicas[action.pool]
            self.replicas[action.pool] = action.replicas
            going = sorted(
                (worker for worker in workers if not worker.is_leaving),
                key=lambda worker: (
                    worker.name not in action.leaving,
                    worker.ready_at <= now,
                    worker.num_requests,
                ),
            )
            for worker in going[: max(len(going) - action.replicas, 0)]:
                worker.is_leaving = True
            pool = next(pool for pool in self.pools if pool.name == action.pool)
            for _ in range(action.replicas - len(going)):
                self._make(pool, now)

    def _make(self, pool: Pool, now: float) -> None:
        self._made += 1
        running = sum(worker.ready_at < inf for worker in self.workers[pool.name])
        can_run = running < self.schedulable[pool.name]
        ready_at = now + START_SECONDS if can_run else inf
        self.workers[pool.name].append(Worker(f"{pool.name}-{self._made}", pool.role, ready_at))

    def _change(self, now: float, pool: Pool, worker: Worker) -> None:
        if worker.is_leaving and (worker.is_empty or worker.ready_at > now):
            self.workers[pool.name].remove(worker)
        elif worker.target is not None and worker.is_empty:
            worker.role, worker.target = worker.target, None
            worker.ready_at = now + FLIP_SECONDS

    def _place_prompts(self, now: float) -> None:
        if not self.at_router:
            return
        workers = self.serving(now, "prefill")
        for worker in workers:
            before = worker.busy_seconds
            self._computed(worker.prefill_until(now))
            self._busy["prefill"] += worker.busy_seconds - before
        while workers and self.at_router:
            request = self.at_router.pop(0)
            chosen = min(workers, key=lambda worker: (_ahead(worker, request), worker.name))
            chosen.queue_prompt(now, request)

    def _computed(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.first.append(request)
            if request.output_tokens > 1:
                self.prefilled.append(request)
            else:
                request.done_at = request.decode_at = request.first_token_at
                self.finished.append(request)

    def see(self, now: float) -> Seen:
        """Scrapes, and evaluates the window."""
        counts: dict[Role, int] = {role: len(self.serving(now, role)) for role in ROLES}
        self._samples.append((now, dict(self._busy), counts, self._generated))
        while self._samples[0][0] < now - WINDOW_SECONDS:
            self._samples.popleft()
        begin = now - WINDOW_SECONDS
        while self.arrived and self.arrived[0].at < begin:
            self.arrived.popleft()
        while self.first and self.first[0].first_token_at < begin:
            self.first.popleft()
        while self.finished and self.finished[0].done_at < begin:
            self.finished.popleft()
        since, busy, _, generated = self._samples[0]
        seconds = max(now - since, INTERVAL_SECONDS)
        mean = {
            role: sum(n[role] for _, _, n, _ in self._samples) / len(self._samples)
            for role in ROLES
        }
        return Seen(
            now=now,
            pools=tuple(self._state(now, pool) for pool in self.pools),
            prefill=self._prefill_load(now, seconds, mean["prefill"]),
            decode=self._decode_load(now, (self._generated - generated) / seconds, mean["decode"]),
            busy_share={
                role: (self._busy[role] - busy[role]) / seconds / max(mean[role], 1e-9)
                for role in ROLES
            },
            arrived=tuple(self.arrived),
            finished=tuple(self.finished),
        )

    def _prefill_load(self, now: float, seconds: float, mean_workers: float) -> PrefillLoad:
        workers = [worker for pool in self.workers.values() for worker in pool]
        arrived: dict[LengthClass, float] = {}
        recent: dict[LengthClass, float] = {}
        cost: dict[LengthClass, float] = {}
        queued: dict[LengthClass, float] = {}
        ttft: dict[LengthClass, float | None] = {}
        queue: dict[LengthClass, float | None] = {}
        for length in LENGTH_CLASSES:
            some = [request for request in self.arrived if request.length == length]
            tokens = sum(request.prompt_tokens for request in some)
            arrived[length] = tokens / seconds
            late = [request for request in some if request.at >= now - RECENT_SECONDS]
            recent[length] = sum(request.prompt_tokens for request in late) / RECENT_SECONDS
            served = sum(request.service_seconds for request in some)
            cost[length] = served / tokens if tokens else COST.token_seconds
            waits = sum(worker.queue_seconds[length] for worker in workers)
            queued[length] = max(waits, 0.0) / cost[length]
            first = [request for request in self.first if request.length == length]
            ttft[length] = percentile([each.first_token_at - each.at for each in first])
            queue[length] = percentile([each.queue_seconds for each in first])
        return PrefillLoad(
            arrived_tokens=arrived,
            token_seconds=cost,
            queued_tokens=queued,
            ttft_seconds=ttft,
            queue_seconds=queue,
            waiting_requests=len(self.at_router),
            mean_workers=mean_workers,
            recent_tokens=recent,
        )

    def _decode_load(self, now: float, generated: float, mean_workers: float) -> DecodeLoad:
        workers = [worker for pool in self.workers.values() for worker in pool]
        waiting = [request for worker in workers for request in worker.waiting]
        outputs = [request.output_tokens for request in self.finished]
        output = sum(outputs) / len(outputs) if outputs else None
        several = [request for request in self.finished if request.output_tokens > 1]
        return DecodeLoad(
            running_requests=sum(worker.running for worker in workers),
            context_tokens=sum(worker.context_tokens for worker in workers),
            queued_requests=len(waiting),
            queued_tokens=sum(request.blocks * BLOCK_SIZE for request in waiting),
            blocks_predicted=sum(worker.blocks_used for worker in workers),
            blocks_per_worker=BLOCKS,
            block_size=BLOCK_SIZE,
            generated_tokens=generated,
            tpot_seconds=percentile([request.tpot_seconds for request in several]),
            cost=COST,
            waiting_requests=len(self.at_router) + len(self.prefilled),
            mean_workers=mean_workers,
            arrived_requests=len(self.arrived) / min(now, WINDOW_SECONDS),
            output_tokens=output,
        )

    def _state(self, now: float, pool: Pool) -> PoolState:
        pods = tuple(
            Pod(
                name=worker.name,
                role=worker.role,
                phase=_phase(worker, now),
                running_requests=worker.num_requests,
            )
            for worker in self.workers[pool.name]
        )
        return PoolState(pool=pool, replicas=self.replicas[pool.name], pods=pods)


def _ahead(worker: Worker, request: Request) -> float:
    """Seconds of work in front of a prompt."""
    short = worker.queue_seconds["short"]
    return short if request.length == "short" else short + worker.queue_seconds["long"]


def _phase(worker: Worker, now: float) -> PodPhase:
    if worker.is_leaving or worker.target is not None:
        return "leaving"
    if worker.ready_at == inf:
        return "unschedulable"
    return "ready" if worker.ready_at <= now else "starting"
