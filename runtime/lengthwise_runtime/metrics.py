"""Prometheus metrics: buckets, and the endpoint, which also answers probes.

Names, meanings and labels are written down in docs/metrics.md; a test compares both.
"""

from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)

from lengthwise_runtime.calls.places import CallRefusal, Count
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.health import Liveness
from lengthwise_runtime.metrics_server import MetricsServer
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tls.contexts import server_context

# A quarter of the series, which say when each counter was made: nobody asks.
disable_created_metrics()  # type: ignore[no-untyped-call]

LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0,
    3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0,
)  # fmt: skip
"""Seconds. Dense from 0.1 to 2 s, where TTFT objectives lie."""

TOKEN_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Seconds. Dense from 10 to 100 ms, where TPOT objectives lie."""

STEP_GAP_BUCKETS = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.003, 0.005, 0.01, 0.05, 0.1,
)  # fmt: skip
"""Seconds between engine steps that the model did not use."""

TOKEN_BUCKETS = tuple(float(2**power) for power in range(18))
"""Tokens: 1 to 131,072."""


def count_refused_calls(registry: CollectorRegistry) -> Count:
    """For a `Server`."""
    refused = Counter(
        "lengthwise_refused_calls_total",
        "Calls that the gRPC server refused or ended itself",
        ("reason",),
        registry=registry,
    )
    children = {reason: refused.labels(reason) for reason in get_args(CallRefusal)}
    return lambda reason: children[reason].inc()


def serve_metrics(
    listen: str, registry: CollectorRegistry, liveness: Liveness, tls: TlsConfig | None = None
) -> MetricsServer | None:
    """Serves /metrics in a thread of its own, with the kernel's numbers of this process, and what
    probes ask: /healthz (is it fit for work?) and /livez (does its event loop turn?),
    200 or 503 with the reason. None where `listen` is empty.

    Errors: ConfigError when the address cannot be bound, or a file of `tls` be used.
    """
    if not listen:
        return None
    address = Address.parse(listen)
    context = None if tls is None else server_context(tls, "metrics_tls")
    ProcessCollector(registry=registry)
    tasks = Gauge("lengthwise_tasks", "asyncio tasks that have not ended", registry=registry)
    tasks.set_function(lambda: liveness.num_tasks)
    probes = {"/healthz": liveness.trouble, "/livez": liveness.stuck}
    try:
        return MetricsServer(address, registry, probes, context)
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {address}: {error.strerror}") from error
