"""From what Kubernetes, the workers and Prometheus show to what the scaling policy decides on.

What one of them does not report is taken for the harmless case: a flexible worker that cannot be
asked is not counted on, and figures that are missing are 0, with which only the choice of which pod
leaves gets worse.
"""

import time
from collections.abc import Mapping, Set

from lengthwise_autoscaler.kubernetes.cluster import ClusterView
from lengthwise_autoscaler.kubernetes.pods import ReleasePod
from lengthwise_autoscaler.kubernetes.roles import Serving
from lengthwise_autoscaler.load.data_check import Settled
from lengthwise_autoscaler.load.readings import Reading
from lengthwise_policy.scaling.state import Pod, Pool, PoolName, PoolState


def settled_pods(
    view: ClusterView,
    pools: Mapping[PoolName, Pool],
    serving: Mapping[str, Serving],
    settle_seconds: float,
) -> list[Settled]:
    """Routers and workers that have been what they are for so long, and are found in the data."""
    ready_before = time.time() - settle_seconds
    steady_before = time.monotonic() - settle_seconds
    settled = []
    for pod in view.pods:
        if pod.phase != "ready" or pod.ready_at > ready_before:
            continue
        pool = pools.get(pod.pool)
        if pod.component == "router":
            settled.append(Settled(name=pod.name, pool="", role=None))
        elif pool is not None and not pool.flexible:
            settled.append(Settled(name=pod.name, pool=pod.pool, role=pool.role))
        elif pool is not None:
            serves = serving.get(pod.name)
            if serves is not None and serves.is_steady and serves.since <= steady_before:
                settled.append(Settled(name=pod.name, pool=pod.pool, role=serves.role))
    return settled


def pool_states(
    view: ClusterView,
    pools: Mapping[PoolName, Pool],
    fixed: Set[PoolName],
    serving: Mapping[str, Serving],
    reading: Reading,
) -> list[PoolState]:
    """Of the pools whose Deployments are there, in their order. `fixed` ones need none: they are as
    large as they are."""
    states = []
    for name, pool in pools.items():
        deployment = view.deployments.get(name)
        if deployment is None and name not in fixed:
            continue
        pods = tuple(_pod(pod, pool, serving.get(pod.name), reading) for pod in view.pods_of(name))
        staying = sum(pod.phase != "leaving" for pod in pods)
        states.append(
            PoolState(
                pool=pool,
                replicas=staying if deployment is None else deployment.replicas,
                pods=pods,
                paused=deployment is None or deployment.paused,
            )
        )
    return states


def _pod(pod: ReleasePod, pool: Pool, serves: Serving | None, reading: Reading) -> Pod:
    role, phase = pool.role, pod.phase
    if pool.flexible and phase == "ready":
        role = serves.role if serves is not None else role
        phase = "ready" if serves is not None and serves.is_steady else "starting"
    return Pod(
        name=pod.name,
        role=role,
        phase=phase,
        running_requests=int(reading.requests.get(pod.name, 0)),
        cached_blocks=int(reading.cached_blocks.get(pod.name, 0)),
    )
