"""What a decode worker measures beside what every worker does. docs/metrics.md says what each
means."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from lengthwise_decode_worker.step_output import StepOutput
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
        self.preemptions = Counter(
            "lengthwise_preemptions_total",
            "Requests that lost their blocks to more senior ones and were computed again",
            registry=registry,
        )
        self.recomputed_tokens = Counter(
            "lengthwise_recomputed_tokens_total",
            "Tokens computed again after preemptions",
            registry=registry,
        )
        self.local_prefill_tokens = Counter(
            "lengthwise_local_prefill_tokens_total",
            "Prompt tokens that decode workers computed themselves",
            registry=registry,
        )
        self.cached_tokens = Counter(
            "lengthwise_prefix_cached_tokens_total",
            "Prompt tokens whose KV was in the worker's prefix cache",
            ("role",),
            registry=registry,
        ).labels("decode")
        self.admissions = Counter(
            "lengthwise_decode_admissions_total",
            "Requests that were given KV blocks, by the rule that let them",
            ("reason",),
            registry=registry,
        )

    def count(self, output: StepOutput) -> None:
        """What one turn of the engine told."""
        if output.gap_seconds is not None:
            self.step_gap.observe(output.gap_seconds)
        self.generated_tokens.inc(sum(len(rows.token_ids) for rows in output.rows.values()))
        self.preemptions.inc(output.preemptions)
        self.recomputed_tokens.inc(output.recomputed_tokens)
        self.local_prefill_tokens.inc(output.local_prefill_tokens)
        self.cached_tokens.inc(output.cached_tokens)
        for rule, count in output.admissions.items():
            self.admissions.labels(rule).inc(count)
