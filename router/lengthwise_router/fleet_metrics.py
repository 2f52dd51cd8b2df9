"""What a router reports to Prometheus that belongs to no one of its models."""

from collections.abc import Callable
from functools import partial
from itertools import product

from prometheus_client import Counter, Gauge

from lengthwise_policy.types import Role
from lengthwise_router.labels import (
    CODES,
    CONDITIONS,
    DISCOVERY_FAILURES,
    ROLES,
    Condition,
    DiscoveryFailure,
)
from lengthwise_router.metric_families import MetricFamilies

NO_MODEL = ""
"""Label of workers and requests that are no served model's."""


class FleetMetrics:
    """Of discovery, of workers that serve nothing known, and of requests for no served model."""

    def __init__(
        self,
        families: MetricFamilies,
        *,
        num_unknown: Callable[[Role, Condition], int],
        num_discovered: Callable[[], int],
    ) -> None:
        """Both are asked at every scrape, in another thread."""
        registry = families.registry
        discovered = Gauge(
            "lengthwise_discovered_workers",
            "Workers' addresses that discovery proposes",
            registry=registry,
        )
        discovered.set_function(num_discovered)
        errors = Counter(
            "lengthwise_discovery_errors_total",
            "Times that Kubernetes could not be asked for the workers",
            ("reason",),
            registry=registry,
        )
        self._discovery_errors = {reason: errors.labels(reason) for reason in DISCOVERY_FAILURES}
        report_workers(families, NO_MODEL, num_unknown)
        self.unserved = RequestEndings(families, NO_MODEL)

    def discovery_failed(self, reason: DiscoveryFailure) -> None:
        self._discovery_errors[reason].inc()


class RequestEndings:
    """How a model's requests ended."""

    def __init__(self, families: MetricFamilies, model: str) -> None:
        requests = families.counter(
            model, "lengthwise_requests_total", "Requests ended, by gRPC status code", "code"
        )
        self._counters = {code: requests(code) for code in CODES}

    def ended(self, code: str) -> None:
        self._counters[code].inc()


def report_workers(
    families: MetricFamilies, model: str, num_workers: Callable[[Role, Condition], int]
) -> None:
    """`num_workers` is asked at every scrape, in another thread."""
    gauge = families.gauge(
        model,
        "lengthwise_workers",
        "Workers known to this router, by role and state",
        *("role", "state"),
    )
    for role, condition in product(ROLES, CONDITIONS):
        gauge(role, condition).set_function(partial(num_workers, role, condition))
