"""The control loop: look, read, decide, act; over and over, while leading.

Each part is bounded in time, so a round is. Whatever cannot be known leaves scaling where
it is, and is reported; the next round begins from nothing but what the Scaler remembers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.kubernetes.actuator import Actuator
from lengthwise_autoscaler.kubernetes.cluster import Cluster, ClusterView
from lengthwise_autoscaler.kubernetes.pods import ReleasePod
from lengthwise_autoscaler.kubernetes.reporter import Reporter
from lengthwise_autoscaler.kubernetes.roles import FlexibleWorkers, Serving
from lengthwise_autoscaler.load.data_check import SETTLE_SCRAPES
from lengthwise_autoscaler.load.plausibility import MostWorkers
from lengthwise_autoscaler.load.prometheus import Prometheus, Vector
from lengthwise_autoscaler.load.queries import QueryName, queries
from lengthwise_autoscaler.load.readings import Reading
from lengthwise_autoscaler.metrics import AutoscalerMetrics
from lengthwise_autoscaler.model_pools import ModelPools, by_model
from lengthwise_autoscaler.states import pool_states, settled_pods
from lengthwise_policy.scaling.state import (
    Action,
    Flip,
    FlipRule,
    Hold,
    PoolState,
    Scale,
    ScalingRule,
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
        self._fixed = frozenset(item.name for item in config.pools if item.fixed)
        interval = config.prometheus.scrape_interval_seconds
        self._settle_seconds = SETTLE_SCRAPES * interval
        self._queries = queries(
            namespace,
            config.release,
            window_seconds=config.prometheus.window_seconds,
            scrape_interval_seconds=interval,
        )
        self._models = by_model(config)
        self._most_workers = MostWorkers(config.prometheus.window_seconds + self._settle_seconds)
        self.last_decision = 0.0  # when a round ended without any error, since the epoch
        self._stopping = asyncio.Event()
        self._leads = False
        self._paused: frozenset[str] = frozenset()
        # What was logged of each pool last.
        self._reported: dict[str, tuple[str, ScalingRule | FlipRule]] = {}

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Ends after `stop`."""
        while not self._stopping.is_set():
            began_at = time.monotonic()
            pause = FOLLOW_SECONDS
            if self._is_active():
                await self._guarded_round()
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
            for model in self._models:
                model.forget()
            self._metrics.forget()
            self._reported.clear()
        self._leads = leads
        return leads

    async def _guarded_round(self) -> None:
        """What an answer made us raise costs this round, not the process and all it remembers."""
        try:
            await self._round()
        except Exception as error:
            logger.exception("a round has failed")
            what = f"{type(error).__name__} {error}; please report it"
            self._reporter.error(ScalingError("unexpected", what))

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
        readings = self._read(vectors, view, serving)
        found = [error for reading in readings.values() for error in reading.errors]
        # What is wrong with the routers' data is so for every model: it is told once.
        errors = [*errors, *view.errors, *{str(error): error for error in found}.values()]
        self._report(errors)
        states: list[PoolState] = []
        actions: list[Action] = []
        for model, reading in readings.items():
            own = [name for name in self._pools if model.has(name)]
            pools = {name: self._pools[name] for name in own}
            looks = pool_states(view, pools, self._fixed, serving, reading)
            demands = model.demands(reading, looks)
            for group, demand in demands.items():
                self._metrics.demand(model.model, group, demand)
            states += looks
            actions += model.decide(time.monotonic(), looks, demands)
        self._metrics.decision_seconds.observe(time.monotonic() - began_at)
        if not errors:
            self.last_decision = time.time()
            self._metrics.last_decision.set(self.last_decision)
        self._publish(states, actions)
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
        self, vectors: Mapping[QueryName, Vector], view: ClusterView, serving: Mapping[str, Serving]
    ) -> dict[ModelPools, Reading]:
        pods = {pool: len(view.pods_of(pool)) for pool in self._pools}
        most = self._most_workers.see(time.monotonic(), pods)
        if not vectors:
            return dict.fromkeys(self._models, Reading(loads={}, errors=()))
        if not any(pod.component == "router" for pod in view.pods):
            error = ScalingError(
                "data_missing",
                f"release {self._config.release!r} has no router pod, so what arrives is unknown;"
                " is `release` right?",
            )
            return dict.fromkeys(self._models, Reading(loads={}, errors=(error,)))
        settled = settled_pods(view, self._pools, serving, self._settle_seconds)
        return {model: model.read(vectors, settled, most) for model in self._models}

    def _report(self, errors: Sequence[ScalingError]) -> None:
        for error in errors:
            self._reporter.error(error)

    def _publish(
        self,
        states: Sequence[PoolState],
        actions: Sequence[Action],
    ) -> None:
        """Metrics, and a line where something has changed."""
        wanted = {action.pool: action.replicas for action in actions if isinstance(action, Scale)}
        sized = [state for state in states if state.pool.name not in self._fixed]
        for state in sized:
            self._metrics.pool(state, wanted.get(state.pool.name, state.replicas))
        for action in actions:
            if action.pool not in self._fixed:
                self._log(action)
        paused = frozenset(state.pool.name for state in sized if state.paused)
        for pool in paused - self._paused:
            self._reporter.event(pool, "ScalingPaused", "left alone, as its annotation says")
        self._paused = paused

    def _log(self, action: Action) -> None:
        """Why a pool stays as it is, and in a dry run what would be done; once."""
        if not isinstance(action, Hold) and not self._config.dry_run:
            return  # it is reported once it is done
        match action:
            case Scale():
                what = f"would have {action.replicas} replicas"
            case Flip():
                what = f"would have {action.pod} serve {action.role}"
            case Hold():
                what = "stays as it is"
        now = what, action.rule
        if self._reported.get(action.pool) != now:
            logger.info("pool %s %s: %s", action.pool, what, action.reason)
        self._reported[action.pool] = now

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
