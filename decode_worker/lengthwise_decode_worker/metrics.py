"""Metrics of decode workers alone; docs/metrics.md explains each."""

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter

from lengthwise_decode_worker.stepping.snapshot import DecodeSnapshot
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_policy.decode.request import GrantRule
from lengthwise_worker.metrics import WorkerMetrics


class DecodeMetrics(WorkerMetrics):
    """Counted once per step; gauges are read when asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "decode")
        self._generated_tokens = self._counter(
            "lengthwise_generated_tokens_total",
            "Tokens decoded, the prefill workers' first tokens not counted",
        ).labels("decode")
        self._preemptions = Counter(
            "lengthwise_preemptions_total",
            "Requests that lost their blocks to more senior ones and were computed again",
            registry=registry,
        )
        self._recomputed_tokens = Counter(
            "lengthwise_recomputed_tokens_total",
            "Tokens computed again after preemptions",
            registry=registry,
        )
        self._local_prefill_tokens = Counter(
            "lengthwise_local_prefill_tokens_total",
            "Prompt tokens that decode workers computed themselves",
            registry=registry,
        )
        self._admissions = Counter(
            "lengthwise_decode_admissions_total",
            "Requests that were given KV blocks, by the rule that let them",
            ("reason",),
            registry=registry,
        )
        for rule in get_args(GrantRule):
            self._admissions.labels(rule)

    def watch_decoding(self, state: Callable[[], DecodeSnapshot]) -> None:
        """What only decode workers have; see `watch`."""
        predicted = self._gauge(
            "lengthwise_kv_blocks_predicted",
            "The most blocks that the admitted requests are predicted to hold at once",
        )
        predicted.labels("decode").set_function(lambda: state().blocks_predicted)
        context = self._gauge(
            "lengthwise_context_tokens", "Tokens whose KV the running requests read in a step"
        )
        context.labels("decode").set_function(lambda: state().context_tokens)

    def count(self, report: DecodeReport) -> None:
        """A step has ended."""
        self.count_step(report)
        self._generated_tokens.inc(sum(len(rows.token_ids) for rows in report.rows.values()))
        self._preemptions.inc(report.preemptions)
        self._recomputed_tokens.inc(report.recomputed_tokens)
        self._local_prefill_tokens.inc(report.local_prefill_tokens)
        self.cached_tokens.inc(report.cached_tokens)
        for rule, count in report.admissions.items():
            self._admissions.labels(rule).inc(count)
