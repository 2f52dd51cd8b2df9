"""Metrics of prefill workers alone; docs/metrics.md explains each."""

from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.prefill.disciplines import batch_rules
from lengthwise_policy.prefill.policy import DisciplineName
from lengthwise_prefill_worker.messages import Computed
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS
from lengthwise_worker.metrics import WorkerMetrics

Metric = TypeVar("Metric", Counter, Histogram)

BATCH_LENGTHS = (*LENGTH_CLASSES, "mixed")


class PrefillMetrics(WorkerMetrics):
    """Observed once per request; what steps take, once per step."""

    def __init__(self, registry: CollectorRegistry, discipline: DisciplineName) -> None:
        super().__init__(registry, "prefill")
        self._queue_seconds = _by_length(
            self._histogram(
                "lengthwise_queue_seconds",
                "From a request's arrival at the worker to the start of its first chunk",
                LATENCY_BUCKETS,
                "length_class",
            )
        )
        self._prefill_seconds = _by_length(
            self._histogram(
                "lengthwise_prefill_seconds",
                "From the start of a request's first chunk to its first token",
                LATENCY_BUCKETS,
                "length_class",
            )
        )
        self._residual_tokens = self._histogram(
            "lengthwise_residual_tokens", "Prompt tokens that had to be computed", TOKEN_BUCKETS
        ).labels("prefill")
        self._tokens = _by_length(
            self._counter(
                "lengthwise_prefill_tokens_total", "Prompt tokens computed", "length_class"
            )
        )
        self._seconds = _by_length(
            self._counter(
                "lengthwise_prefill_busy_seconds_total",
                "Time inside engine steps; that of a mixed batch is shared out by tokens",
                "length_class",
            )
        )
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


def _by_length(metric: Metric) -> dict[LengthClass, Metric]:
    """The metric's child of each length class."""
    return {length: metric.labels("prefill", length) for length in LENGTH_CLASSES}
