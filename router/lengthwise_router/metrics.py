"""What a router tells Prometheus. TTFT and TPOT are measured here, where tokens leave for the
client; names, meanings and labels are written down in docs/metrics.md.
"""

from collections.abc import Callable
from functools import partial
from typing import get_args

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lengthwise_policy.lengths import LENGTH_CLASSES, LengthClass
from lengthwise_policy.types import Role
from lengthwise_router.worker import Condition, Worker
from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS, TOKEN_LATENCY_BUCKETS

ROLES: tuple[Role, ...] = get_args(Role)
STATES: tuple[Condition, ...] = get_args(Condition)


class RouterMetrics:
    """Children of the labelled metrics are made once: looking one up costs as much as counting."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model: str,
        workers: Callable[[], tuple[Worker, ...]],
    ) -> None:
        """`workers` is asked at every scrape, in another thread."""
        requests = Counter(
            "lengthwise_requests_total",
            "Requests ended, by gRPC status code",
            ("code", "model"),
            registry=registry,
        )
        self._requests = {code: requests.labels(code.name, model) for code in StatusCode}
        self._ttft = _by_length_class(
            registry,
            "lengthwise_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            LATENCY_BUCKETS,
        )
        self._tpot = _by_length_class(
            registry,
            "lengthwise_time_per_output_token_seconds",
            "(last token - first token) / (output tokens - 1), of requests with at least two",
            TOKEN_LATENCY_BUCKETS,
        )
        self.inter_token_latency = Histogram(
            "lengthwise_inter_token_latency_seconds",
            "Between consecutive messages to a client, by the tokens in the later one",
            buckets=TOKEN_LATENCY_BUCKETS,
            registry=registry,
        )
        self.prompt_tokens = Histogram(
            "lengthwise_prompt_tokens",
            "Tokens of an admitted request's prompt",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._output_tokens = Histogram(
            "lengthwise_output_tokens",
            "Tokens generated for a request that ended well",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self.placements = Counter(
            "lengthwise_placements_total",
            "Placements of requests on workers, by the rule that chose",
            ("reason",),
            registry=registry,
        )
        self.retries = Counter(
            "lengthwise_retries_total",
            "Attempts that failed and were, if any were left, followed by another",
            ("phase", "reason"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "lengthwise_requests_in_flight", "Requests in this router", registry=registry
        )
        workers_by_state = Gauge(
            "lengthwise_workers",
            "Workers known to this router, by role and state",
            ("role", "state"),
            registry=registry,
        )
        for role in ROLES:
            for state in STATES:
                count = partial(_count, workers, role, state)
                workers_by_state.labels(role, state).set_function(count)

    def request_ended(self, code: StatusCode) -> None:
        self._requests[code].inc()

    def first_token(self, length_class: LengthClass, seconds: float) -> None:
        self._ttft[length_class].observe(seconds)

    def finished(self, length_class: LengthClass, output_tokens: int, tpot: float) -> None:
        """A request ended well; `tpot` is 0 for a single token."""
        self._output_tokens.observe(output_tokens)
        if output_tokens > 1:
            self._tpot[length_class].observe(tpot)


def _count(workers: Callable[[], tuple[Worker, ...]], role: Role, state: Condition) -> float:
    return sum(worker.role == role and worker.condition == state for worker in workers())


def _by_length_class(
    registry: CollectorRegistry, name: str, meaning: str, buckets: tuple[float, ...]
) -> dict[LengthClass, Histogram]:
    histogram = Histogram(name, meaning, ("length_class",), buckets=buckets, registry=registry)
    return {name: histogram.labels(name) for name in LENGTH_CLASSES}
