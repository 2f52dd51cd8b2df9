"""The control loop: look, read, decide, act; over and over, while leading.

Each part is bounded in time, so a round is. The rule: whatever cannot be known leaves scaling where
it is, and is told; the next round begins from nothing but what the Scaler remembers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from lengthwise_autoscaler.actuator import Actuator
from lengthwise_autoscaler.cluster import Cluster, ClusterView
from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.metrics import AutoscalerMetrics
from lengthwise_autoscaler.pods import ReleasePod
from lengthwise_autoscaler.prometheus import Prometheus, Vector
from lengthwise_autoscaler.queries import QueryName, queries
from lengthwise_autoscaler.readings import (
    SETTLE_SCRAPES,
    LoadReader,
    Reading,
    Settled,
    group_of,
)
from lengthwise_autoscaler.reporter import Reporter
from lengthwise_autoscaler.roles import FlexibleWorkers, Serving
from lengthwise_policy.demand import Objectives, decode_demand, prefill_demand
from lengthwise_policy.scaling import Scaler
from lengthwise_policy.scaling_state import (
    Action,
    Demand,
    Flip,
    Group,
    Hold,
    Pod,
    PoolState,
    PrefillLoad,
    Scale,
)

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 0.5
"""How soon a new leader begins."""


class ControlLoop:
    """`run` is a task; `stop` lets it finish its round."""

    def __init__(
        self,
        config: AutoscalerConfig,
        *,
        namespace: str,
        cluster: Cluster,
        prometheus: Prometheus,
        workers: FlexibleWorkers,
        actuator: Actuator,
        reporter: Reporter,
        metrics: AutoscalerMetrics,
        is_leader: Callable[[], bool],
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._prometheus = prometheus
        self._workers = workers
        self._actuator = actuator
        self._reporter = reporter
        self._metrics = metrics
        self._is_leader = is_leader
        self._pools = {item.name: item.pool for item in config.pools}
        self._objectives = Objectives(
            ttft_seconds=config.ttft_slo_seconds, tpot_seconds=config.tpot_slo_seconds
        )
        interval = config.prometheus.scrape_interval_seconds
        self._settle_seconds = SETTLE_SCRAPES * interval
        self._queries = queries(
            namespace,
            config.release,
            window_seconds=config.prometheus.window_seconds,
            scrape_interval_seconds=interval,
        )
        self._reader = LoadReader(list(self._pools.values()), interval)
        self._scaler = Scaler(config.scaling)
        self._stopping = asyncio.Event()
        self._leads = False
        self._paused: frozenset[str] = frozenset()
        self._told: dict[str, str] = {}  # what was said of each pool last

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Ends after `stop`."""
        while not self._stopping.is_set():
            began_at = time.monotonic()
            pause = FOLLOW_SECONDS
            if self._is_active():
                await self._round()
                pause = max(began_at + self._config.interval_seconds - time.monotonic(), 0.0)
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pass  # it is time for the next round

    def _is_active(self) -> bool:
        leads = self._config.dry_run or self._is_leader()
        self._metrics.leader.set(leads and not self._config.dry_run)
        if self._leads and not leads:
            self._scaler.forget()
            self._metrics.forget()
            self._told.clear()
        self._leads = leads
        return leads

    async def _round(self) -> None:
        began_at = time.monotonic()
        looking = asyncio.create_task(self._cluster.look())
        vectors, errors = await self._ask()
        try:
            view = await looking
        except ScalingError as error:
            self._report([*errors, error])
            return
        self._reporter.knows({pool: item.uid for pool, item in view.deployments.items()})
        serving = await self._workers.ask(self._flexible_pods(view))
        reading = self._read(vectors, view, serving)
        self._report([*errors, *view.errors, *reading.errors])
        states = self._states(view, serving, vectors)
        demands = self._demands(reading, states)
        actions = self._scaler.decide(time.monotonic(), states, demands)
        self._metrics.decision_seconds.observe(time.monotonic() - began_at)
        if not (errors or view.errors or reading.errors):
            self._metrics.last_decision.set_to_current_time()
        self._tell(states, demands, actions)
        if not self._config.dry_run:
            await self._act(actions, view)

    async def _ask(self) -> tuple[Mapping[QueryName, Vector], list[ScalingError]]:
        """Without vectors where there is an error."""
        try:
            return await self._prometheus.ask(self._queries), []
        except ScalingError as error:
            return {}, [error]

    def _flexible_pods(self, view: ClusterView) -> list[ReleasePod]:
        return [
            pod
            for pod in view.pods
            if pod.phase == "ready" and pod.pool in self._pools and self._pools[pod.pool].flexible
        ]

    def _read(
        self,
        vectors: Mapping[QueryName, Vector],
        view: ClusterView,
        serving: Mapping[str, Serving],
    ) -> Reading:
        if not vectors:
            return Reading(loads={}, errors=())
        if not any(pod.component == "router" for pod in view.pods):
            error = ScalingError(
                "data_missing",
                f"release {self._config.release!r} has no router pod, so what arrives is unknown;"
                " is `release` right?",
            )
            return Reading(loads={}, errors=(error,))
        return self._reader.read(vectors, self._settled(view, serving))

    def _settled(self, view: ClusterView, serving: Mapping[str, Serving]) -> list[Settled]:
        """Pods that have been what they are for long enough to be found in the data."""
        ready_before = time.time() - self._settle_seconds
        steady_before = time.monotonic() - self._settle_seconds
        settled = []
        for pod in view.pods:
            if pod.phase != "ready" or pod.ready_at > ready_before:
                continue
            pool = self._pools.get(pod.pool)
            if pod.component == "router":
                settled.append(Settled(name=pod.name, pool="", role=None))
            elif pool is not None and not pool.flexible:
                settled.append(Settled(name=pod.name, pool=pod.pool, role=pool.role))
            elif pool is not None:
                serves = serving.get(pod.name)
                if serves is not None and serves.is_steady and serves.since <= steady_before:
                    settled.append(Settled(name=pod.name, pool=pod.pool, role=serves.role))
        return settled

    def _states(
        self,
        view: ClusterView,
        serving: Mapping[str, Serving],
        vectors: Mapping[QueryName, Vector],
    ) -> list[PoolState]:
        """Of the pools whose Deployments are there, in the order of the configuration."""
        requests = _by_pod(vectors.get("pod_requests", ()))
        cached = _by_pod(vectors.get("pod_cached", ()))
        states = []
        for name, pool in self._pools.items():
            deployment = view.deployments.get(name)
            if deployment is None:
                continue
            pods = []
            for pod in view.pods_of(name):
                role, phase = pool.role, pod.phase
                if pool.flexible and phase == "ready":
                    serves = serving.get(pod.name)
                    if serves is not None:
                        role = serves.role
                    if serves is None or not serves.is_steady:
                        phase = "starting"
                pods.append(
                    Pod(
                        name=pod.name,
                        role=role,
                        phase=phase,
                        running_requests=int(requests.get(pod.name, 0)),
                        cached_blocks=int(cached.get(pod.name, 0)),
                    )
                )
            states.append(
                PoolState(
                    pool=pool,
                    replicas=deployment.replicas,
                    pods=tuple(pods),
                    paused=deployment.paused,
                )
            )
        return states

    def _demands(self, reading: Reading, states: Sequence[PoolState]) -> dict[Group, Demand]:
        workers: dict[Group, int] = {}
        for state in states:
            for pod in state.pods:
                if pod.phase == "ready":
                    group = group_of(state.pool, pod.role)
                    workers[group] = workers.get(group, 0) + 1
        return {
            group: (
                prefill_demand(load, self._objectives, workers.get(group, 0))
                if isinstance(load, PrefillLoad)
                else decode_demand(load, self._objectives, workers.get(group, 0))
            )
            for group, load in reading.loads.items()
        }

    def _report(self, errors: Sequence[ScalingError]) -> None:
        for error in errors:
            self._reporter.error(error)

    def _tell(
        self,
        states: Sequence[PoolState],
        demands: Mapping[Group, Demand],
        actions: Sequence[Action],
    ) -> None:
        """Metrics, and a line where something has changed."""
        for group, demand in demands.items():
            self._metrics.demand(group, demand)
        wanted = {action.pool: action.replicas for action in actions if isinstance(action, Scale)}
        for state in states:
            self._metrics.pool(state, wanted.get(state.pool.name, state.replicas))
        for action in actions:
            self._say(action)
        paused = frozenset(state.pool.name for state in states if state.paused)
        for pool in paused - self._paused:
            self._reporter.event(pool, "ScalingPaused", "left alone, as its annotation says")
        self._paused = paused

    def _say(self, action: Action) -> None:
        """Why a pool stays as it is, and in a dry run what would be done; once."""
        if not isinstance(action, Hold) and not self._config.dry_run:
            return  # it is said once it is done
        match action:
            case Scale():
                what = f"would have {action.replicas} replicas"
            case Flip():
                what = f"would have {action.pod} serve {action.role}"
            case Hold():
                what = "stays as it is"
        said = f"{what} {action.reason.partition(':')[0]}"
        if self._told.get(action.pool) != said:
            logger.info("pool %s %s: %s", action.pool, what, action.reason)
        self._told[action.pool] = said

    async def _act(self, actions: Sequence[Action], view: ClusterView) -> None:
        for action in actions:
            try:
                match action:
                    case Scale():
                        await self._actuator.scale(action, view)
                    case Flip():
                        await self._actuator.flip(action, view)
            except ScalingError as error:
                self._reporter.error(error)


def _by_pod(vector: Vector) -> dict[str, float]:
    return {row.label("pod"): row.value for row in vector}
