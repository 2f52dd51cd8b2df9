"""What a router tells Prometheus. TTFT and TPOT are measured here, where tokens leave for the
client; names, meanings and labels are written down in docs/metrics.md.
"""

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lengthwise_policy.lengths import LENGTH_CLASSES, LengthClass
from lengthwise_router.worker import Worker
from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS, TOKEN_LATENCY_BUCKETS

ROLES = ("prefill", "decode")
STATES = ("connecting", "ready", "draining", "stalled", "lost", "incompatible")


class RouterMetrics:
    """Children of the labelled metrics are made once: looking one up costs as much as counting."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._model = model
        self._requests = Counter(
            "lengthwise_requests_total",
            "Requests ended, by gRPC status code",
            ("code", "model"),
            registry=registry,
        )
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
            "Between consecutive messages with tokens to a client",
            buckets=TOKEN_LATENCY_BUCKETS,
            registry=registry,
        )
        self._prompt_tokens = Histogram(
            "lengthwise_prompt_tokens",
            "Tokens of a request's prompt",
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
        self._workers = Gauge(
            "lengthwise_workers",
            "Workers known to this router, by role and state",
            ("role", "state"),
            registry=registry,
        )

    def request_ended(self, code: str) -> None:
        self._requests.labels(code, self._model).inc()

    def first_token(self, length_class: LengthClass, seconds: float) -> None:
        self._ttft[length_class].observe(seconds)

    def finished(
        self, length_class: LengthClass, prompt_tokens: int, output_tokens: int, tpot: float
    ) -> None:
        """A request ended well; `tpot` is 0 for a single token."""
        self._prompt_tokens.observe(prompt_tokens)
        self._output_tokens.observe(output_tokens)
        if output_tokens > 1:
            self._tpot[length_class].observe(tpot)

    def set_workers(self, workers: tuple[Worker, ...]) -> None:
        tally = Tally((worker.role, worker.condition) for worker in workers)
        for role in ROLES:
            for state in STATES:
                self._workers.labels(role, state).set(tally[role, state])


def _by_length_class(
    registry: CollectorRegistry, name: str, meaning: str, buckets: tuple[float, ...]
) -> dict[LengthClass, Histogram]:
    histogram = Histogram(name, meaning, ("length_class",), buckets=buckets, registry=registry)
    return {name: histogram.labels(name) for name in LENGTH_CLASSES}
