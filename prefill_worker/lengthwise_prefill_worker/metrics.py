"""Metrics of prefill workers alone; docs/metrics.md explains each."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.prefill.disciplines import batch_rules
from lengthwise_policy.prefill.policy import DisciplineName
from lengthwise_prefill_worker.messages import Computed
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS
from lengthwise_worker.metrics import WorkerMetrics

BATCH_LENGTHS = (*LENGTH_CLASSES, "mixed")


class PrefillMetrics(WorkerMetrics):
    """Observed once per request; what steps take, once per step."""

    def __init__(self, registry: CollectorRegistry, discipline: DisciplineName) -> None:
        super().__init__(registry, "prefill")
        queue_seconds = Histogram(
            "lengthwise_queue_seconds",
            "From a request's arrival at the worker to the start of its first chunk",
            ("role", "length_class"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._queue_seconds = {
            name: queue_seconds.labels("prefill", name) for name in LENGTH_CLASSES
        }
        prefill_seconds = Histogram(
            "lengthwise_prefill_seconds",
            "From the start of a request's first chunk to its first token",
            ("role", "length_class"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._prefill_seconds = {
            name: prefill_seconds.labels("prefill", name) for name in LENGTH_CLASSES
        }
        self._residual_tokens = Histogram(
            "lengthwise_residual_tokens",
            "Prompt tokens that had to be computed",
            ("role",),
            buckets=TOKEN_BUCKETS,
            registry=registry,
        ).labels("prefill")
        self._count_steps(registry, discipline)

    def _count_steps(self, registry: CollectorRegistry, discipline: DisciplineName) -> None:
        tokens = Counter(
            "lengthwise_prefill_tokens_total",
            "Prompt tokens computed",
            ("role", "length_class"),
            registry=registry,
        )
        self._tokens = {name: tokens.labels("prefill", name) for name in LENGTH_CLASSES}
        seconds = Counter(
            "lengthwise_prefill_busy_seconds_total",
            "Time inside engine steps; that of a mixed batch is shared out by tokens",
            ("role", "length_class"),
            registry=registry,
        )
        self._seconds = {name: seconds.labels("prefill", name) for name in LENGTH_CLASSES}
        self._batches = Counter(
            "lengthwise_prefill_batches_total",
            "Batches computed, by length class and the rule that chose them",
            ("length_class", "reason"),
            registry=registry,
        )
        for length in BATCH_LENGTHS:
            for rule in batch_rules(discipline):
                self._batches.labels(length, rule)

    def count(self, report: PrefillReport) -> None:
        """A step has ended."""
        self.count_step(report)
        if report.batch is None:
            return
        self._batches.labels(report.batch.length, report.batch.rule).inc()
        for name, num_tokens in report.tokens.items():
            self._tokens[name].inc(num_tokens)
            self._seconds[name].inc(report.busy_seconds * num_tokens / report.batch.num_tokens)

    def first_token(self, computed: Computed, num_tokens: int) -> None:
        """A prompt of so many tokens is complete."""
        self._queue_seconds[computed.length].observe(computed.queue_seconds)
        self._prefill_seconds[computed.length].observe(computed.prefill_seconds)
        self._residual_tokens.observe(num_tokens - computed.num_cached_tokens)
        self.cached_tokens.inc(computed.num_cached_tokens)
