"""Metrics of flexible workers that outlive their roles; docs/metrics.md explains each."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter

from lengthwise_policy.types import Role


class RoleChanges:
    """Changes that ended well, by the role that was taken on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._changes = Counter(
            "lengthwise_role_changes_total",
            "Times that the worker has changed to the role",
            ("role",),
            registry=registry,
        )
        for role in get_args(Role):
            self._changes.labels(role)

    def changed_to(self, role: Role) -> None:
        self._changes.labels(role).inc()
