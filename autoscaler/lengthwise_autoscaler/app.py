"""Where an autoscaler's objects are made and joined; nowhere else are any constructed."""

import asyncio
import logging

from prometheus_client import CollectorRegistry

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_autoscaler.kubernetes.actuator import Actuator
from lengthwise_autoscaler.kubernetes.api_server import ApiServer
from lengthwise_autoscaler.kubernetes.cluster import Cluster
from lengthwise_autoscaler.kubernetes.leadership import Leadership
from lengthwise_autoscaler.kubernetes.reporter import Reporter
from lengthwise_autoscaler.kubernetes.roles import FlexibleWorkers
from lengthwise_autoscaler.load.prometheus import Prometheus
from lengthwise_autoscaler.loop import ControlLoop
from lengthwise_autoscaler.metrics import AutoscalerMetrics
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.health import Liveness
from lengthwise_runtime.metrics import serve_metrics

logger = logging.getLogger(__name__)

FINISH_SECONDS = 10.0
"""What an ending autoscaler allows for the round it is in; a healthy one takes less than one."""

FLUSH_SECONDS = 2.0


class AutoscalerApplication:
    """An autoscaler; see `runtime.process.Application`."""

    def __init__(self, config: AutoscalerConfig) -> None:
        self._config = config
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        config = self._config
        self._prometheus = Prometheus(config.prometheus)
        self._api = await ApiServer.of(config)
        registry = CollectorRegistry()
        pools = {item.name: item for item in config.sized_pools}
        metrics = AutoscalerMetrics(
            registry, [item.pool for item in config.sized_pools], is_dry_run=config.dry_run
        )
        self._reporter = Reporter(
            self._api,
            metrics,
            {name: item.deployment for name, item in pools.items()},
            writes_events=not config.dry_run,
        )
        self._leadership = Leadership(
            self._api, self._reporter, lease=config.lease, identity=config.identity
        )
        cluster = Cluster(self._api, config.release, config.sized_pools)
        self._workers = FlexibleWorkers(lambda address: open_channel(address, config.tls))

        def is_leader() -> bool:
            return self._leadership.is_leader

        actuator = Actuator(
            self._api,
            cluster,
            self._workers,
            pools,
            reporter=self._reporter,
            metrics=metrics,
            is_leader=is_leader,
        )
        self._loop = ControlLoop(
            config,
            namespace=self._api.namespace,
            cluster=cluster,
            prometheus=self._prometheus,
            workers=self._workers,
            actuator=actuator,
            reporter=self._reporter,
            metrics=metrics,
            is_leader=is_leader,
        )
        await self._open(registry)

    async def _open(self, registry: CollectorRegistry) -> None:
        """Says that it lives, then starts the background tasks."""
        liveness = Liveness()
        liveness.start()
        config = self._config
        self._metrics_server = serve_metrics(
            config.metrics_listen, registry, liveness, config.metrics_tls
        )
        self._looping = asyncio.create_task(self._loop.run(), name="loop")
        self._tasks = [asyncio.create_task(self._reporter.run(), name="reporter")]
        if not self._config.dry_run:
            self._tasks.append(asyncio.create_task(self._leadership.run(), name="leadership"))
        liveness.serving = True
        logger.info(
            "%s %d pools of release %s in namespace %s as %s",
            "watches (dry run)" if self._config.dry_run else "sizes",
            len(self._config.sized_pools),
            *(self._config.release, self._api.namespace, self._leadership.identity),
        )

    @property
    def metrics_address(self) -> str:
        """host:port of /metrics; empty where it is not served."""
        return str(self._metrics_server.address) if self._metrics_server is not None else ""

    @property
    def last_decision(self) -> float:
        """When the last round without any error ended, since the epoch; 0: never."""
        return self._loop.last_decision

    async def failed(self) -> BaseException:
        tasks = [self._looping, *self._tasks]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        return task.exception() or RuntimeError(f"task {task.get_name()} ended")

    async def drain(self) -> None:
        """Finishes the round, gives the leadership up."""
        self._loop.stop()
        await asyncio.wait([self._looping], timeout=FINISH_SECONDS)
        await self._reporter.flush(FLUSH_SECONDS)
        for task in (self._looping, *self._tasks):
            task.cancel()
        await asyncio.gather(self._looping, *self._tasks, return_exceptions=True)
        await self._leadership.release()
        await self._workers.close()
        await self._prometheus.close()
        await self._api.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
            self._metrics_server = None
