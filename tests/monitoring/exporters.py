"""Pods as Prometheus sees them: the processes' own metrics, at real HTTP ports, and no process.

Names and labels come from the code that a real pod runs, so that a metric renamed there
is found missing here.
"""

from dataclasses import replace
from typing import Any

from harness.prometheus import NAMESPACE
from prometheus_client import CollectorRegistry, start_http_server

from lengthwise_decode_worker.metrics import DecodeMetrics
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_decode_worker.stepping.snapshot import DecodeSnapshot
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_prefill_worker.metrics import PrefillMetrics
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_router.metric_families import MetricFamilies
from lengthwise_router.metrics import RouterMetrics
from lengthwise_worker.snapshot import EngineSnapshot

RELEASE = "demo"


class Exporter:
    """Serves a registry; close it when done."""

    component = "worker"

    def __init__(self, pod: str, pool: str = "") -> None:
        self.pod = pod
        self.registry = CollectorRegistry()
        self._pool = pool
        self._server, self._thread = start_http_server(0, "127.0.0.1", self.registry)

    @property
    def target(self) -> tuple[str, dict[str, str]]:
        """As the PodMonitor's relabelling makes it."""
        labels = {
            "job": "lengthwise",
            "namespace": NAMESPACE,
            "release": RELEASE,
            "component": self.component,
            "pod": self.pod,
        }
        if self._pool:
            labels["pool"] = self._pool
        return f"127.0.0.1:{self._server.server_port}", labels

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class RouterExporter(Exporter):
    """A router's metrics."""

    component = "router"

    def __init__(self, pod: str) -> None:
        super().__init__(pod)
        self.waiting = 0
        self._families = MetricFamilies(self.registry)
        self.metrics = self.serve("toy")

    def serve(self, model: str) -> RouterMetrics:
        """Another model's metrics."""
        return RouterMetrics(
            self._families,
            model=model,
            placement_rules=("round robin",),
            objectives=Objectives(),
            num_workers=lambda role, condition: 0,
            num_waiting=lambda: self.waiting,
        )

    def arrive(self, length: LengthClass, tokens: int, ttft: float | None = None) -> None:
        self.metrics.arrived(length, tokens)
        if ttft is not None:
            self.metrics.first_token(length, ttft)


IDLE: dict[str, Any] = {
    "blocks_free": 1000,
    "blocks_cached": 0,
    "running_requests": 0,
    "prompt_tokens_total": 0,
    "cost": None,
    "cost_samples": 0,
    "short_tokens": 256,
}
"""An engine's snapshot, of either role."""


class PrefillExporter(Exporter):
    """A prefill worker's metrics."""

    def __init__(self, pod: str, pool: str) -> None:
        super().__init__(pod, pool)
        self.state = EngineSnapshot(**IDLE, queues=(("short", 0, 0), ("long", 0, 0)))
        self.metrics = PrefillMetrics(self.registry, "length_aware")
        self.metrics.watch(lambda: self.state, total_blocks=1000, block_size=16)

    def compute(self, length: LengthClass, tokens: int, seconds: float) -> None:
        """A step of one class."""
        chunk = PromptChunk(request_id=RequestId("1"), start=0, num_tokens=tokens, is_last=True)
        report = PrefillReport(
            batch=PrefillBatch(
                length=length,
                chunks=(chunk,),
                rule="alone",
                reason="alone: test",
            ),
            busy_seconds=seconds,
            tokens={length: tokens},
        )
        self.metrics.count(report)


class DecodeExporter(Exporter):
    """A decode worker's metrics."""

    def __init__(self, pod: str, pool: str) -> None:
        super().__init__(pod, pool)
        self.state = DecodeSnapshot(
            **IDLE,
            queues=(("", 0, 0),),
            blocks_predicted=0,
            context_tokens=0,
            output_tokens_total=0,
        )
        self.metrics = DecodeMetrics(self.registry)
        self.metrics.watch(lambda: self.state, total_blocks=1000, block_size=16)
        self.metrics.watch_decoding(lambda: self.state)

    def set(self, **values: Any) -> None:
        """Gauges from now on."""
        self.state = replace(self.state, **values)

    def generate(self, tokens: int) -> None:
        rows = RouterRows()
        rows.token_ids.extend(range(tokens))
        self.metrics.count(DecodeReport(rows={"router": rows}, busy_seconds=0.01))
