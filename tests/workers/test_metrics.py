"""What workers tell of their engines' state at a scrape, and what they tell before there is any."""

import dataclasses
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from lengthwise_decode_worker.metrics import DecodeMetrics
from lengthwise_engine.models.experts.routed import ExpertCounts
from lengthwise_engine.runner.graphs import StepCounts
from lengthwise_policy.cost.model import PRIOR
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_prefill_worker.metrics import PrefillMetrics
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_worker.metrics import WorkerMetrics
from lengthwise_worker.snapshot import EngineSnapshot

STATE = EngineSnapshot(
    blocks_free=70,
    blocks_cached=30,
    running_requests=3,
    queues=(("short", 2, 50), ("long", 1, 900)),
    prompt_tokens_total=0,
    cost=None,
    cost_samples=0,
    short_tokens=300,
)


class Scraped:
    """A worker's metrics over a state that changes."""

    def __init__(self) -> None:
        self.state = STATE
        self.registry = CollectorRegistry()
        metrics = WorkerMetrics(self.registry, "prefill")
        metrics.watch(lambda: self.state, total_blocks=100, block_size=16)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"lengthwise_{name}", {"role": "prefill", **labels})


def test_a_scrape_reports_the_engines_state_of_that_moment() -> None:
    worker = Scraped()
    assert worker.value("kv_blocks", state="free") == 70
    assert worker.value("kv_blocks", state="used") == 30
    assert worker.value("kv_blocks", state="cached") == 30
    assert worker.value("kv_block_tokens") == 16
    assert worker.value("short_tokens") == 300
    worker.state = dataclasses.replace(
        STATE, queues=(("short", 0, 0), ("long", 7, 8000)), running_requests=9
    )
    assert worker.value("running_requests") == 9
    assert worker.value("queued_requests", length_class="short") == 0
    assert worker.value("queued_requests", length_class="long") == 7
    assert worker.value("queued_tokens", length_class="long") == 8000


def test_a_cost_is_reported_only_once_it_is_known() -> None:
    worker = Scraped()
    assert worker.value("cost_seconds", coefficient="step") is None
    cost = dataclasses.replace(PRIOR, step_seconds=0.25, decode_context_seconds=0.125)
    worker.state = dataclasses.replace(STATE, cost=cost)
    assert worker.value("cost_seconds", coefficient="step") == 0.25
    assert worker.value("cost_seconds", coefficient="decode_context") == 0.125
    names = {"step", "token", "attention", "history", "decode_request", "decode_context"}
    assert all(worker.value("cost_seconds", coefficient=name) is not None for name in names)


def test_a_mixed_batchs_seconds_are_shared_out_by_tokens() -> None:
    registry = CollectorRegistry()
    metrics = PrefillMetrics(registry, "fcfs")
    chunks = [
        PromptChunk(request_id=RequestId(name), start=0, num_tokens=tokens, is_last=True)
        for name, tokens in (("a", 100), ("b", 300))
    ]
    batch = PrefillBatch(chunks=tuple(chunks), length="mixed", rule="fcfs", reason="fcfs: x")
    metrics.count(PrefillReport(batch=batch, busy_seconds=0.4, tokens={"short": 100, "long": 300}))
    for length, tokens, seconds in (("short", 100, 0.1), ("long", 300, 0.3)):
        labels = {"role": "prefill", "length_class": length}
        value = registry.get_sample_value
        assert value("lengthwise_prefill_tokens_total", labels) == tokens
        reported = value("lengthwise_prefill_busy_seconds_total", labels)
        assert reported == pytest.approx(seconds)
    assert value("lengthwise_busy_seconds_total", {"role": "prefill"}) == 0.4


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda registry: PrefillMetrics(registry, "length_aware"), id="prefill"),
        pytest.param(DecodeMetrics, id="decode"),
    ],
)
def test_nothing_counted_yet_is_reported_as_zero(
    make: Callable[[CollectorRegistry], WorkerMetrics],
) -> None:
    registry = CollectorRegistry()
    make(registry)
    silent = [
        family.name
        for family in registry.collect()
        if not any(sample.name.endswith(("_total", "_count")) for sample in family.samples)
    ]
    assert not silent


@pytest.mark.slow
def test_a_scrape_reports_how_steps_reached_the_device() -> None:
    layers = (ExpertCounts(), ExpertCounts())
    registry, steps = CollectorRegistry(), StepCounts(experts=layers)
    WorkerMetrics(registry, "decode").watch_steps(steps)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"lengthwise_{name}", {"role": "decode", **labels})

    assert value("model_steps_total", kind="mixed", how="replayed") == 0
    steps.replayed["decode"] += 3
    steps.launched["prefill"] += 2
    steps.graphs, steps.graph_bytes, steps.capture_seconds = 4, 5000, 1.5
    assert value("model_steps_total", kind="decode", how="replayed") == 3
    assert value("model_steps_total", kind="prefill", how="launched") == 2
    assert value("graphs") == 4
    assert value("graph_bytes") == 5000
    assert value("graph_capture_seconds_total") == 1.5
    assert value("expert_rows_total") == 0
    layers[0].add([3, 0, 1])
    layers[1].add([2, 2, 0])
    assert value("expert_rows_total") == 8
    assert value("expert_busiest_rows_total") == 5
    assert value("expert_reads_total") == 4
