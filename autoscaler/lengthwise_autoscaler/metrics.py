"""An autoscaler's own metrics. docs/metrics.md has the meaning of each.

The last decision is reported while it holds; an autoscaler that does not lead reports no
replicas, so that several of them are never added up.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lengthwise_autoscaler.errors import ERROR_REASONS, ErrorReason
from lengthwise_policy.scaling.state import Demand, FlipRule, Group, Pool, PoolState, ScalingRule
from lengthwise_runtime.metrics import LATENCY_BUCKETS


class AutoscalerMetrics:
    """Labels `pool`, `role` and `length_class` are those of the configuration."""

    def __init__(
        self, registry: CollectorRegistry, pools: Sequence[Pool], *, is_dry_run: bool
    ) -> None:
        self._registry = registry
        self._replicas = self._gauge(
            "lengthwise_replicas", "spec.replicas of a pool's Deployment", "pool"
        )
        self._wanted = self._gauge(
            "lengthwise_replicas_wanted", "What the last decision wants it to be", "pool"
        )
        self._needed = self._gauge(
            "lengthwise_workers_needed",
            "Workers that a group's work needs, not rounded",
            *("model", "role", "length_class"),
        )
        least = self._gauge("lengthwise_pool_min_replicas", "As configured", "pool")
        most = self._gauge("lengthwise_pool_max_replicas", "As configured", "pool")
        for pool in pools:
            least.labels(pool.name).set(pool.min_replicas)
            most.labels(pool.name).set(pool.max_replicas)
        self._actions = self._counter(
            "lengthwise_scaling_actions_total",
            "What was done, by the rule that wanted it",
            "pool",
            "action",
            "reason",
        )
        errors = self._counter(
            "lengthwise_scaling_errors_total",
            "What kept the autoscaler from deciding or acting",
            "reason",
        )
        self._errors = {reason: errors.labels(reason) for reason in ERROR_REASONS}
        self.leader = self._gauge("lengthwise_autoscaler_leader", "Whether this one acts")
        self.decision_seconds = Histogram(
            "lengthwise_autoscaler_decision_seconds",
            "From the begin of a round to its decision",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.last_decision = self._gauge(
            "lengthwise_autoscaler_last_decision_timestamp_seconds",
            "When the last round decided on all pools' data, since the epoch",
        )
        self._gauge("lengthwise_autoscaler_dry_run", "Whether it only reports").set(is_dry_run)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def error(self, reason: ErrorReason) -> None:
        self._errors[reason].inc()

    def acted(self, pool: str, action: str, rule: ScalingRule | FlipRule) -> None:
        self._actions.labels(pool, action, rule).inc()

    def demand(self, model: str, group: Group, demand: Demand) -> None:
        role, length_class = group
        self._needed.labels(model, role, length_class or "").set(demand.workers)

    def pool(self, state: PoolState, wanted: int) -> None:
        self._replicas.labels(state.pool.name).set(state.replicas)
        self._wanted.labels(state.pool.name).set(wanted)

    def forget(self) -> None:
        """It does not lead any more."""
        for gauge in (self._replicas, self._wanted, self._needed):
            gauge.clear()
