"""Every PromQL query the autoscaler makes, by name.

A query's result has few rows however many workers there are, except those that must name
each pod. Rates are over the configured window. Only the release's own series are selected.
"""

import json
from collections.abc import Mapping
from typing import Literal

QueryName = Literal[
    "sample_age",
    "scraped",
    "arrived_requests",
    "arrived_tokens",
    "recent_tokens",
    "output_tokens",
    "waiting_requests",
    "ttft",
    "tpot",
    "prefill_tokens",
    "prefill_busy",
    "queue_seconds",
    "queued_tokens",
    "decode_running",
    "decode_context",
    "decode_queued",
    "decode_predicted",
    "decode_blocks",
    "decode_workers",
    "block_tokens",
    "generated_tokens",
    "mean_workers",
    "cost",
    "pod_requests",
    "pod_cached",
]

_BY: Mapping[str, tuple[QueryName, ...]] = {
    "pod": ("sample_age", "scraped", "pod_requests", "pod_cached"),
    "model length_class": ("arrived_requests", "arrived_tokens", "recent_tokens", "ttft"),
    "model": ("output_tokens", "waiting_requests", "tpot"),
    "pool": (
        "decode_running",
        "decode_context",
        "decode_queued",
        "decode_predicted",
        "decode_blocks",
        "decode_workers",
        "generated_tokens",
        "block_tokens",
    ),
    "pool length_class": ("prefill_tokens", "prefill_busy", "queue_seconds"),
    "role pool": ("mean_workers",),
    "role pool length_class": ("queued_tokens",),
    "role pool coefficient": ("cost",),
}

OF_MODELS = frozenset(name for labels, names in _BY.items() if "model" in labels for name in names)
"""Queries of what routers count, each model for itself."""

LABELS: Mapping[QueryName, frozenset[str]] = {
    name: frozenset(labels.split()) for labels, names in _BY.items() for name in names
}
"""That the rows of a query's result may have; no two rows have the same."""

PERCENTILE = 0.9

RECENT_SCRAPES = 4
"""In which a surge is seen early: enough for a rate though one scrape fails."""


def queries(
    namespace: str, release: str, *, window_seconds: float, scrape_interval_seconds: float
) -> dict[QueryName, str]:
    """The text of each. Labels of a result are those after `by`."""
    window = f"[{round(1000 * window_seconds)}ms]"
    recent = f"[{round(1000 * RECENT_SCRAPES * scrape_interval_seconds)}ms]"
    steps = f"[{round(1000 * window_seconds)}ms:{round(1000 * scrape_interval_seconds)}ms]"

    def series(metric: str, **labels: str) -> str:
        return _series(metric, {"namespace": namespace, "release": release, **labels})

    def rate(metric: str, **labels: str) -> str:
        return f"rate({series(metric, **labels)}{window})"

    def percentile(by: str, metric: str, **labels: str) -> str:
        buckets = rate(f"{metric}_bucket", **labels)
        return f"histogram_quantile({PERCENTILE}, sum by ({by}) ({buckets}))"

    def decode(metric: str) -> str:
        return f"sum by (pool) ({series(metric, role='decode')})"

    tokens = series("lengthwise_arrived_tokens_total")
    outputs = rate("lengthwise_output_tokens_sum"), rate("lengthwise_output_tokens_count")
    up = series("up", component="router|worker")
    blocks = series("lengthwise_kv_blocks", role="decode", state="free|used")
    cached = series("lengthwise_kv_blocks", state="cached")
    workers = f"count by (role, pool) ({series('lengthwise_running_requests')})"
    held = "lengthwise_running_requests|lengthwise_queued_requests"
    by_class, lengths = "pool, length_class", "model, length_class"
    return {
        # By the clock of Prometheus, which stamps samples too.
        "sample_age": f"time() - max by (pod) (timestamp({up}))",
        "scraped": f"max by (pod) ({up})",
        "arrived_requests": f"sum by ({lengths}) ({rate('lengthwise_arrived_requests_total')})",
        "arrived_tokens": f"sum by ({lengths}) ({rate('lengthwise_arrived_tokens_total')})",
        "recent_tokens": f"sum by ({lengths}) (rate({tokens}{recent}))",
        "output_tokens": f"sum by (model) ({outputs[0]}) / sum by (model) ({outputs[1]})",
        "waiting_requests": f"sum by (model) ({series('lengthwise_requests_waiting')})",
        "ttft": percentile(f"{lengths}, le", "lengthwise_time_to_first_token_seconds"),
        "tpot": percentile("model, le", "lengthwise_time_per_output_token_seconds"),
        "prefill_tokens": f"sum by ({by_class}) ({rate('lengthwise_prefill_tokens_total')})",
        "prefill_busy": f"sum by ({by_class}) ({rate('lengthwise_prefill_busy_seconds_total')})",
        "queue_seconds": percentile(f"{by_class}, le", "lengthwise_queue_seconds", role="prefill"),
        "queued_tokens": "sum by (role, pool, length_class)"
        f" ({series('lengthwise_queued_tokens')})",
        "decode_running": decode("lengthwise_running_requests"),
        "decode_context": decode("lengthwise_context_tokens"),
        "decode_queued": decode("lengthwise_queued_requests"),
        "decode_predicted": decode("lengthwise_kv_blocks_predicted"),
        "decode_blocks": f"sum by (pool) ({blocks})",
        "decode_workers": "count by (pool)"
        f" ({series('lengthwise_kv_blocks_predicted', role='decode')})",
        "block_tokens": f"max by (pool) ({series('lengthwise_kv_block_tokens')})",
        "generated_tokens": f"sum by (pool) ({rate('lengthwise_generated_tokens_total')})",
        "mean_workers": f"avg_over_time(({workers}){steps})",
        "cost": f"quantile by (role, pool, coefficient) (0.5, {series('lengthwise_cost_seconds')})",
        "pod_requests": f"sum by (pod) ({series('', __name__=held)})",
        "pod_cached": f"sum by (pod) ({cached})",
    }


def _series(metric: str, labels: dict[str, str]) -> str:
    """A selector. Values with a bar are alternatives."""
    # A JSON string is a PromQL string.
    matchers = [
        f"{name}{'=~' if '|' in value else '='}{json.dumps(value)}"
        for name, value in labels.items()
    ]
    return f"{metric}{{{','.join(matchers)}}}"
