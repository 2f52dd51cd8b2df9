"""What a decode worker measures beside what every worker does. docs/metrics.md says what each
means."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from lengthwise_runtime.metrics import WorkerMetrics


class DecodeMetrics(WorkerMetrics):
    """Counted once per step; gauges are read when asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "decode")
        self.running_requests = Gauge(
            "lengthwise_running_requests",
            "Requests in the continuous batch",
            ("role",),
            registry=registry,
        ).labels("decode")
        self.generated_tokens = Counter(
            "lengthwise_generated_tokens_total",
            "Tokens decoded, the prefill workers' first tokens not counted",
            ("role",),
            registry=registry,
        ).labels("decode")
