"""Which addresses a set of EndpointSlices offers: slices come and go whole and by name,
so events that repeat change nothing.

They are read as JSON: the API server answers `endpoints: null` for a slice without any, which the
classes that Kubernetes' Python clients generate refuse (kubernetes-client/python#2423).
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from lengthwise_runtime.config import Address

logger = logging.getLogger(__name__)

PORT_NAME = "grpc"
"""Of the Service's port that workers serve gRPC on."""


class EndpointSlices:
    """The slices that are there, reduced to the addresses worth connecting to."""

    def __init__(self) -> None:
        self._ready: dict[str, frozenset[str]] = {}  # by a slice's name

    @property
    def ready(self) -> frozenset[str]:
        """host:port of every endpoint that is ready and not on its way out."""
        return frozenset[str]().union(*self._ready.values())

    def replace(self, slices: Iterable[Mapping[str, Any]]) -> None:
        """All slices there are: what is not among them is gone. Errors: KeyError, TypeError."""
        self._ready = {_name(each): _ready_of(each) for each in slices}

    def apply(self, change: str, endpoint_slice: Mapping[str, Any]) -> None:
        """One change, by its type in a watch. Errors: KeyError, TypeError."""
        if change in ("ADDED", "MODIFIED"):
            self._ready[_name(endpoint_slice)] = _ready_of(endpoint_slice)
        elif change == "DELETED":
            self._ready.pop(_name(endpoint_slice), None)


def _name(endpoint_slice: Mapping[str, Any]) -> str:
    return str(endpoint_slice["metadata"]["name"])


def _ready_of(endpoint_slice: Mapping[str, Any]) -> frozenset[str]:
    endpoints = endpoint_slice.get("endpoints") or ()
    if not endpoints:
        return frozenset()
    port = _port_of(endpoint_slice)
    if port is None:
        logger.warning(
            "EndpointSlice %s has no port named %s: its endpoints are not used",
            *(_name(endpoint_slice), PORT_NAME),
        )
        return frozenset()
    # An endpoint's further addresses are the same one again.
    ready = (endpoint["addresses"][0] for endpoint in endpoints if _is_ready(endpoint))
    return frozenset(str(Address(host, port)) for host in ready)


def _port_of(endpoint_slice: Mapping[str, Any]) -> int | None:
    for port in endpoint_slice.get("ports") or ():
        if port.get("name") == PORT_NAME and port.get("port"):
            return int(port["port"])
    return None


def _is_ready(endpoint: Mapping[str, Any]) -> bool:
    """Where a condition is missing, Kubernetes' API means true for `ready`, false for
    `terminating`. A pod that ends is not ready, unless its Service publishes addresses
    regardless."""
    conditions = endpoint.get("conditions") or {}
    return conditions.get("ready") is not False and not conditions.get("terminating")
