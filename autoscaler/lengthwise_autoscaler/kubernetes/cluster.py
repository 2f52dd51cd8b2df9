"""What a round sees of Kubernetes: the pools' Deployments and the release's pods.

One list of pods and one Deployment per pool, all at once; a Deployment that cannot be
read takes out its own pool alone.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lengthwise_autoscaler.config import PoolConfig
from lengthwise_autoscaler.errors import ApiServerRefused, ScalingError
from lengthwise_autoscaler.kubernetes.api_server import NOT_FOUND, ApiServer, reading
from lengthwise_autoscaler.kubernetes.pods import (
    RELEASE_LABEL,
    Deployment,
    ReleasePod,
    read_deployment,
    read_pods,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """One moment."""

    deployments: Mapping[str, Deployment]  # by pool; those that could be read
    pods: tuple[ReleasePod, ...]
    errors: tuple[ScalingError, ...]

    def pods_of(self, pool: str) -> tuple[ReleasePod, ...]:
        return tuple(pod for pod in self.pods if pod.pool == pool)


class Cluster:
    """Reads, and changes nothing."""

    def __init__(self, api: ApiServer, release: str, pools: Sequence[PoolConfig]) -> None:
        self._api = api
        self._selector = f"{RELEASE_LABEL}={release}"
        self._pools = pools

    async def look(self) -> ClusterView:
        """Errors: ScalingError when the pods cannot be listed."""
        deployments: dict[str, Deployment] = {}
        errors: list[ScalingError] = []

        async def find(pool: PoolConfig) -> None:
            try:
                deployments[pool.name] = await self.deployment(pool)
            except ScalingError as error:
                errors.append(error)

        listing = asyncio.create_task(self._api.list("pods", self._selector))
        await asyncio.gather(*(find(pool) for pool in self._pools))
        items = await listing
        with reading("pods"):
            pods = read_pods(items, time.time())
        return ClusterView(deployments=deployments, pods=pods, errors=tuple(errors))

    async def deployment(self, pool: PoolConfig) -> Deployment:
        """Errors: ScalingError; `unknown_pool` when there is none of that name."""
        try:
            item = await self._api.ask("get", "deployments", pool.deployment)
            with reading(f"Deployment {pool.deployment!r}"):
                return read_deployment(item, pool.deployment)
        except ScalingError as error:
            if isinstance(error, ApiServerRefused) and error.status == NOT_FOUND:
                raise ScalingError(
                    "unknown_pool",
                    f"there is no Deployment {pool.deployment!r} in namespace"
                    f" {self._api.namespace!r}; correct `pools` in the configuration",
                    pool=pool.name,
                ) from error
            error.pool = pool.name
            raise
