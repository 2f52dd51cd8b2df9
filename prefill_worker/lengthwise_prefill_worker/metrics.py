"""What a prefill worker measures beside what every worker does. docs/metrics.md says what each
means."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS, WorkerMetrics


class PrefillMetrics(WorkerMetrics):
    """Observed once per request; step gap and batches once per step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "prefill")
        self.queue_seconds = Histogram(
            "lengthwise_queue_seconds",
            "From a request's arrival at the worker to the start of its first chunk",
            ("role", "length_class"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.prefill_seconds = Histogram(
            "lengthwise_prefill_seconds",
            "From the start of a request's first chunk to its first token",
            ("role", "length_class"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.residual_tokens = Histogram(
            "lengthwise_residual_tokens",
            "Prompt tokens that had to be computed",
            ("role",),
            buckets=TOKEN_BUCKETS,
            registry=registry,
        ).labels("prefill")
        self.cached_tokens = Counter(
            "lengthwise_prefix_cached_tokens_total",
            "Prompt tokens whose KV was in the worker's prefix cache",
            ("role",),
            registry=registry,
        ).labels("prefill")
        self.batches = Counter(
            "lengthwise_prefill_batches_total",
            "Batches computed, by length class and the rule that chose them",
            ("length_class", "reason"),
            registry=registry,
        )
