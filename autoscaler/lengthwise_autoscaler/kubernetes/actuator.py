"""Does what was decided: replicas, deletion costs, roles.

Replicas are written for the version of the Deployment that was decided on, or for a later one that
differs in nothing that matters: what an operator, or another leader, wrote in between stands.

Leadership is asked for before each write, and after a refusal nothing more of that action is done.
What was not done is decided anew in the next round.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from lengthwise_autoscaler.config import PoolConfig
from lengthwise_autoscaler.errors import ApiServerRefused
from lengthwise_autoscaler.kubernetes.api_server import CONFLICT, NOT_FOUND, ApiServer
from lengthwise_autoscaler.kubernetes.cluster import Cluster, ClusterView
from lengthwise_autoscaler.kubernetes.pods import COST_ANNOTATION, Deployment, ReleasePod
from lengthwise_autoscaler.kubernetes.reporter import Reporter
from lengthwise_autoscaler.kubernetes.roles import FlexibleWorkers
from lengthwise_autoscaler.metrics import AutoscalerMetrics
from lengthwise_policy.scaling.state import Flip, Scale

logger = logging.getLogger(__name__)

MAX_WRITES = 4
"""Attempts at one number of replicas: a Deployment's status changes with each of its pods."""

MAX_PATCHED_AT_ONCE = 16


class Actuator:
    """Errors of all methods: ScalingError."""

    def __init__(
        self,
        api: ApiServer,
        cluster: Cluster,
        workers: FlexibleWorkers,
        pools: Mapping[str, PoolConfig],
        *,
        reporter: Reporter,
        metrics: AutoscalerMetrics,
        is_leader: Callable[[], bool],
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._workers = workers
        self._pools = pools
        self._reporter = reporter
        self._metrics = metrics
        self._is_leader = is_leader

    async def scale(self, action: Scale, view: ClusterView) -> None:
        """Sets the replicas that were decided on in `view`."""
        deployment = view.deployments[action.pool]
        is_out = action.replicas > deployment.replicas
        if not is_out:
            await self._mark(action, view.pods_of(action.pool))
        if not await self._write(action, deployment):
            return
        what = (
            f"{'out' if is_out else 'in'} from {deployment.replicas} to {action.replicas}:"
            f" {action.reason}"
        )
        logger.info("pool %s scaled %s", action.pool, what)
        self._metrics.acted(action.pool, "out" if is_out else "in", action.rule)
        self._reporter.event(action.pool, "ScaledOut" if is_out else "ScaledIn", f"scaled {what}")

    async def flip(self, action: Flip, view: ClusterView) -> None:
        """Has a worker change its role."""
        pod = next(pod for pod in view.pods if pod.name == action.pod)
        if not self._may_write():
            return
        await self._workers.set_role(pod, action.role)
        what = f"pod {action.pod} becomes a {action.role} worker: {action.reason}"
        logger.info("pool %s: %s", action.pool, what)
        self._metrics.acted(action.pool, "flip", action.rule)
        self._reporter.event(action.pool, "RoleFlipped", what)

    async def _write(self, action: Scale, deployment: Deployment) -> bool:
        """Whether it was written; not where another writer's number, or wish, is there."""
        now = deployment
        for _ in range(MAX_WRITES):
            if not self._may_write():
                return False
            body = {
                "metadata": {"resourceVersion": now.version},
                "spec": {"replicas": action.replicas},
            }
            try:
                await self._api.ask("patch", "deployments/scale", deployment.name, body)
                return True
            except ApiServerRefused as error:
                if error.status != CONFLICT:
                    error.pool = action.pool
                    raise
            now = await self._cluster.deployment(self._pools[action.pool])
            if (now.uid, now.replicas, now.paused) != (
                deployment.uid,
                deployment.replicas,
                deployment.paused,
            ):
                logger.info("pool %s was changed by another writer; left as it is", action.pool)
                return False
        logger.info("pool %s changes too fast; it is scaled in a later round", action.pool)
        return False

    async def _mark(self, action: Scale, pods: tuple[ReleasePod, ...]) -> None:
        """Gives those that are to leave the lowest deletion costs, and takes others' away."""
        costs = {
            name: str(index - len(action.leaving)) for index, name in enumerate(action.leaving)
        }
        wanted = {
            pod.name: costs.get(pod.name) for pod in pods if pod.name in costs or pod.has_cost
        }
        places = asyncio.Semaphore(MAX_PATCHED_AT_ONCE)
        results = await asyncio.gather(
            *(self._annotate(action.pool, name, cost, places) for name, cost in wanted.items()),
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result

    async def _annotate(
        self, pool: str, name: str, cost: str | None, places: asyncio.Semaphore
    ) -> None:
        body = {"metadata": {"annotations": {COST_ANNOTATION: cost}}}
        async with places:
            if not self._may_write():
                return
            try:
                await self._api.ask("patch", "pods", name, body)
            except ApiServerRefused as error:
                if error.status != NOT_FOUND:  # it has left already
                    error.pool = pool
                    raise

    def _may_write(self) -> bool:
        if self._is_leader():
            return True
        logger.info("leads no more; what was decided is left to the new leader")
        return False
