"""Metrics of workers of both roles; docs/metrics.md explains each, and a test compares both.

Every child that can be named beforehand exists from the start, at 0, so that «no data»
never means «zero»; children are made once, and what a scrape can ask for is not counted before.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lengthwise_engine.runner.graphs import STEP_KINDS, StepCounts
from lengthwise_policy.types import Role
from lengthwise_runtime.metrics import LATENCY_BUCKETS, STEP_GAP_BUCKETS
from lengthwise_wire.v1 import worker_pb2
from lengthwise_worker.messages import StepReport
from lengthwise_worker.snapshot import EngineSnapshot

TransferFailure = Literal["link_down", "refused", "mismatch"]


class WorkerMetrics:
    """Label `role` tells the roles apart."""

    def __init__(self, registry: CollectorRegistry, role: Role) -> None:
        self._registry = registry
        self.role = role
        self._step_gap = self._histogram(
            "lengthwise_step_gap_seconds",
            "Time between consecutive engine steps not spent in the model",
            STEP_GAP_BUCKETS,
        ).labels(role)
        self._busy_seconds = self._counter(
            "lengthwise_busy_seconds_total",
            "Time inside engine steps, from planning to handing over",
        ).labels(role)
        self.cached_tokens = self._counter(
            "lengthwise_prefix_cached_tokens_total",
            "Prompt tokens whose KV was in the worker's prefix cache",
        ).labels(role)
        self.transfer_seconds = self._histogram(
            "lengthwise_kv_transfer_seconds",
            "From a request's first piece of KV announced to its commit",
            LATENCY_BUCKETS,
        ).labels(role)
        self.transfer_bytes = self._counter(
            "lengthwise_kv_transfer_bytes_total", "KV bytes sent (prefill) or received (decode)"
        ).labels(role)
        failures = self._counter(
            "lengthwise_kv_transfer_failures_total",
            "Transfers that did not end in a commit, by reason",
            "reason",
        )
        self._failures = {
            reason: failures.labels(role, reason) for reason in get_args(TransferFailure)
        }

    def introduce(self, status: worker_pb2.WorkerStatus) -> None:
        """The worker's identity, as labels of a constant 1."""
        labels = {
            "worker_id": status.worker_id,
            "model": status.model,
            "model_fingerprint": status.model_fingerprint,
            "version": version("lengthwise"),
            "length_class": status.length_class,
            "flexible": str(status.flexible).lower(),
        }
        info = self._gauge(
            "lengthwise_worker_info", "Always 1; its labels tell of the worker", *labels
        )
        info.labels(role=self.role, **labels).set(1)

    def count_step(self, report: StepReport[Any]) -> None:
        """What steps of both roles have."""
        if report.gap_seconds is not None:
            self._step_gap.observe(report.gap_seconds)
        self._busy_seconds.inc(report.busy_seconds)

    def transfer_failed(self, reason: TransferFailure) -> None:
        self._failures[reason].inc()

    def watch(
        self, state: Callable[[], EngineSnapshot], *, total_blocks: int, block_size: int
    ) -> None:
        """From now on each scrape asks `state`, which must be safe to call from any thread."""
        role = self.role
        blocks = self._gauge("lengthwise_kv_blocks", "KV blocks by state", "state")
        blocks.labels(role, "free").set_function(lambda: state().blocks_free)
        blocks.labels(role, "used").set_function(lambda: total_blocks - state().blocks_free)
        blocks.labels(role, "cached").set_function(lambda: state().blocks_cached)
        size = self._gauge("lengthwise_kv_block_tokens", "Tokens that a KV block has room for")
        size.labels(role).set(block_size)
        running = self._gauge("lengthwise_running_requests", "Requests in the running batch")
        running.labels(role).set_function(lambda: state().running_requests)
        short = self._gauge(
            "lengthwise_short_tokens", "Residual tokens up to which a prompt is short"
        )
        short.labels(role).set_function(lambda: state().short_tokens)
        self._watch_queues(state)
        self._registry.register(_CostCollector(role, state))

    def watch_steps(self, steps: StepCounts) -> None:
        """From now on each scrape reports what `steps` has counted, which another thread does."""
        graphs = self._gauge("lengthwise_graphs", "CUDA graphs captured")
        graphs.labels(self.role).set_function(lambda: steps.graphs)
        size = self._gauge("lengthwise_graph_bytes", "Device memory of CUDA graphs")
        size.labels(self.role).set_function(lambda: steps.graph_bytes)
        self._registry.register(_StepCollector(self.role, steps))

    def watch_adapters(self, requests: Callable[[], Mapping[str, int]]) -> None:
        """From now on each scrape reports how many `requests` each adapter has had, by its name."""
        self._registry.register(_AdapterCollector(self.role, requests))

    def _watch_queues(self, state: Callable[[], EngineSnapshot]) -> None:
        requests = self._gauge(
            "lengthwise_queued_requests", "Requests that wait at the worker", "length_class"
        )
        tokens = self._gauge(
            "lengthwise_queued_tokens",
            "Residual prompt tokens to compute (prefill), KV slots waited for (decode)",
            "length_class",
        )
        for index, (name, _, _) in enumerate(state().queues):
            requests.labels(self.role, name).set_function(partial(_waiting, state, index, 1))
            tokens.labels(self.role, name).set_function(partial(_waiting, state, index, 2))

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, ("role", *labels), registry=self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, ("role", *labels), registry=self._registry)

    def _histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        labels = ("role", *labels)
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)


def _waiting(state: Callable[[], EngineSnapshot], index: int, column: Literal[1, 2]) -> float:
    return state().queues[index][column]


class _StepCollector(Collector):
    """Steps of the model. A role that takes a runner over finds that it has counted before."""

    def __init__(self, role: Role, steps: StepCounts) -> None:
        self._role = role
        self._steps = steps

    def collect(self) -> Iterable[Metric]:
        steps, role = self._steps, (self._role,)
        total = CounterMetricFamily(
            "lengthwise_model_steps_total",
            "Steps of the model, by what they compute and how they reach the device",
            labels=("role", "kind", "how"),
        )
        for kind in STEP_KINDS:
            total.add_metric((*role, kind, "replayed"), steps.replayed[kind])
            total.add_metric((*role, kind, "launched"), steps.launched[kind])
        yield total
        seconds = CounterMetricFamily(
            "lengthwise_graph_capture_seconds_total",
            "Time that captures of CUDA graphs took before the worker was ready",
            labels=("role",),
        )
        seconds.add_metric(role, steps.capture_seconds)
        yield seconds
        yield from self._experts()

    def _experts(self) -> Iterable[Metric]:
        """Zero where the model has none, or they are not computed by our own code."""
        layers = self._steps.experts
        for name, meaning, count in (
            (
                "lengthwise_expert_rows_total",
                "Rows that experts computed, one for each expert that a token takes",
                sum(layer.rows for layer in layers),
            ),
            (
                "lengthwise_expert_busiest_rows_total",
                "Those of the busiest expert of each step and layer",
                sum(layer.busiest_rows for layer in layers),
            ),
            (
                "lengthwise_expert_reads_total",
                "Times that a step read an expert's weights",
                sum(layer.reads for layer in layers),
            ),
        ):
            total = CounterMetricFamily(name, meaning, labels=("role",))
            total.add_metric((self._role,), count)
            yield total


class _AdapterCollector(Collector):
    """Of those that a worker holds: no request names another."""

    def __init__(self, role: Role, requests: Callable[[], Mapping[str, int]]) -> None:
        self._role = role
        self._requests = requests

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "lengthwise_adapter_requests_total",
            "Requests computed with each adapter since the worker's start",
            labels=("role", "adapter"),
        )
        for name, count in self._requests().items():
            family.add_metric((self._role, name), count)
        yield family


class _CostCollector(Collector):
    """The fitted cost model: nothing at all until there is one, for no number would be true."""

    def __init__(self, role: Role, state: Callable[[], EngineSnapshot]) -> None:
        self._role = role
        self._state = state

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "lengthwise_cost_seconds",
            "Coefficients fitted to this worker's steps; 0: no step has told it",
            labels=("role", "coefficient"),
        )
        cost = self._state().cost
        if cost is not None:
            for field in fields(cost):
                coefficient = field.name.removesuffix("_seconds")
                family.add_metric((self._role, coefficient), getattr(cost, field.name))
        yield family
