"""A release's pods and Deployments, read from the API server's JSON.

Reading decides nothing and keeps nothing; what is not there reads as the harmless case. What no API
server writes is a KeyError, TypeError, ValueError, AttributeError or OverflowError.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from lengthwise_policy.scaling.state import PodPhase
from lengthwise_runtime.config import Address

POOL_LABEL = "lengthwise/pool"
COMPONENT_LABEL = "app.kubernetes.io/component"
RELEASE_LABEL = "app.kubernetes.io/instance"
PAUSE_ANNOTATION = "lengthwise/autoscale"  # value "paused"
COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"

STUCK_SECONDS = 10.0
"""The scheduler places a pod within a second of there being room, and pulls are tried again after
ten; what has failed for longer is not about to begin."""

MAX_SKEW_SECONDS = 60.0
"""Between this machine's clock and the API server's."""

MAX_REPLICAS = 2**31 - 1
"""Kubernetes writes it in 32 bits, signed."""

_CANNOT_START = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePod:
    """A pod that has not ended."""

    name: str
    component: str  # router, worker, autoscaler
    pool: str  # empty: no worker
    phase: PodPhase
    ready_at: float  # since the epoch; when `phase` became ready
    address: str  # host:port of its gRPC server; empty: unknown
    has_cost: bool  # it has a deletion cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A pool's."""

    name: str
    uid: str
    version: str
    replicas: int
    paused: bool


def read_deployment(item: Object, name: str) -> Deployment:
    """The Deployment that was asked for by its `name`."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    replicas = spec.get("replicas", 1)
    if _text(metadata, "name") != name:
        raise ValueError(f"it is {metadata['name']!r}")
    if type(replicas) is not int or not 0 <= replicas <= MAX_REPLICAS:
        raise ValueError(f"spec.replicas: expected an integer from 0 on, got {replicas!r}")
    return Deployment(
        name=name,
        uid=_text(metadata, "uid", ""),
        version=_text(metadata, "resourceVersion"),
        replicas=replicas,
        paused=annotations.get(PAUSE_ANNOTATION) == "paused",
    )


def read_pods(items: Iterable[Object], now: float) -> tuple[ReleasePod, ...]:
    """`now`: since the epoch. Pods that have ended (evicted, completed) are left out."""
    pods = tuple(
        _read_pod(item, now)
        for item in items
        if (item.get("status") or {}).get("phase") not in ("Failed", "Succeeded")
    )
    if len({pod.name for pod in pods}) < len(pods):
        raise ValueError("two have the same name")
    return pods


def _read_pod(item: Object, now: float) -> ReleasePod:
    metadata, status = item["metadata"], item.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
    return ReleasePod(
        name=_text(metadata, "name"),
        component=_text(labels, COMPONENT_LABEL, ""),
        pool=_text(labels, POOL_LABEL, ""),
        phase=_phase(metadata, status, conditions, now),
        ready_at=_instant(conditions.get("Ready", {}), now),
        address=_address(item.get("spec") or {}, status),
        has_cost=COST_ANNOTATION in (metadata.get("annotations") or {}),
    )


def _phase(
    metadata: Object, status: Object, conditions: Mapping[str, Object], now: float
) -> PodPhase:
    if metadata.get("deletionTimestamp"):
        return "leaving"
    if conditions.get("Ready", {}).get("status") == "True":
        return "ready"
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return "unschedulable" if now - _instant(scheduled, now) > STUCK_SECONDS else "starting"
    created_at = _time(metadata.get("creationTimestamp"), now)
    if now - created_at > STUCK_SECONDS and _cannot_start(status):
        return "unschedulable"
    return "starting"


def _cannot_start(status: Object) -> bool:
    names = ("initContainerStatuses", "containerStatuses")
    states = [entry.get("state") or {} for name in names for entry in status.get(name) or ()]
    return any((state.get("waiting") or {}).get("reason") in _CANNOT_START for state in states)


def _instant(condition: Object, now: float) -> float:
    return _time(condition.get("lastTransitionTime"), now)


def _time(text: str | None, now: float) -> float:
    """Since the epoch; 0, long ago, where it is not given."""
    at = datetime.fromisoformat(text).timestamp() if text else 0.0
    if at > now + MAX_SKEW_SECONDS:
        raise ValueError(f"{text} has not come yet; is a clock wrong?")
    return at


def _text(fields: Object, key: str, default: str | None = None) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise TypeError(f"{key}: expected a string, got {value!r:.80}")
    return value


def _address(spec: Object, status: Object) -> str:
    ip = status.get("podIP")
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == "grpc" and ip:
                return str(Address(str(ip_address(ip)), int(port["containerPort"])))
    return ""
