"""Costs of workers that run, as `calibrate` takes them from their metrics."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from simulator.clusters import COST

from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.calibrate import calibrate
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.types import Role
from lengthwise_simulator.cost.running import RunningCosts, Sample
from lengthwise_simulator.errors import SimulationError
from lengthwise_worker.messages import StepReport
from lengthwise_worker.metrics import WorkerMetrics
from lengthwise_worker.snapshot import EngineSnapshot

PROMPTS_ALONE = dataclasses.replace(COST, decode_request_seconds=0.0, decode_context_seconds=0.0)
DECODES_ALONE = dataclasses.replace(
    COST, step_seconds=0.004, token_seconds=0.0, attention_seconds=0.0, history_seconds=0.0
)
GAP = 0.001


def scraped(role: Role, cost: CostModel | None) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, role)
    state = EngineSnapshot(
        blocks_free=1, blocks_cached=0, running_requests=0, queues=(), prompt_tokens_total=0,
        cost=cost, cost_samples=0, short_tokens=256,
    )  # fmt: skip
    metrics.watch(lambda: state, total_blocks=1, block_size=16)
    for gap in (GAP / 2, GAP * 3 / 2):
        metrics.count_step(StepReport(gap_seconds=gap))
    return registry


def told(role: Role, cost: CostModel | None) -> tuple[str, list[Sample]]:
    families = scraped(role, cost).collect()
    samples: list[Sample] = [
        (each.name, each.labels, each.value) for one in families for each in one.samples
    ]
    return f"{role}:9090", samples


def test_each_role_tells_what_it_has_measured_and_its_host_takes_between_steps() -> None:
    costs = RunningCosts.of_metrics([told("prefill", PROMPTS_ALONE), told("decode", DECODES_ALONE)])
    expected = GAP + COST.prefill_seconds(300, 100)
    assert costs.step_seconds([(300, 100)], 0, 0) == pytest.approx(expected)
    expected = GAP + DECODES_ALONE.decode_step_seconds(8, 4000)
    assert costs.step_seconds([], 8, 4000) == pytest.approx(expected)
    beside = costs.step_seconds([(300, 100)], 8, 4000)
    assert beside == pytest.approx(expected + COST.chunk_seconds(300, 100)), "no decode worker knew"


def test_a_decode_worker_that_computes_prompts_tells_all() -> None:
    costs = RunningCosts.of_metrics([told("decode", COST)])
    assert costs.prefill == costs.decode
    expected = GAP + COST.prefill_seconds(300)
    assert costs.step_seconds([(300, 0)], 0, 0) == pytest.approx(expected)


def test_of_several_workers_alike_the_middle_one_counts() -> None:
    slow = dataclasses.replace(COST, step_seconds=1.0)
    costs = RunningCosts.of_metrics([told("decode", each) for each in (slow, COST, COST)])
    assert costs.decode.step_seconds == pytest.approx(COST.step_seconds + GAP)


@pytest.fixture
def worker() -> Iterator[str]:
    server, thread = start_http_server(0, "127.0.0.1", scraped("decode", COST))
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    assert isinstance(thread, threading.Thread)
    thread.join(5.0)


def test_what_is_written_is_read(worker: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    calibrate([worker], out=path)
    read = RunningCosts.read(path)
    assert read.decode.token_seconds == COST.token_seconds
    assert read.decode.step_seconds == pytest.approx(COST.step_seconds + GAP)


def test_who_has_fitted_nothing_is_named() -> None:
    with pytest.raises(SimulationError, match=r"prefill:9090: got no lengthwise_cost_seconds"):
        RunningCosts.of_metrics([told("prefill", None)])


def test_what_is_no_metrics_is_refused_by_name(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"lengthwise_cost_seconds{role=prefill x\n")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(CommandError, match="expected a worker's metrics, got"):
            calibrate([f"127.0.0.1:{server.server_port}"], out=tmp_path / "costs.json")
        thread.join(5.0)


def test_who_is_no_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"127\.0\.0\.1:9: expected a worker's metrics"):
        calibrate(["127.0.0.1:9"], out=tmp_path / "costs.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"prefill": 1}', "[" * 100_000])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(SimulationError, match=r"costs\.json: .*the JSON that calibrate writes"):
        RunningCosts.read(path)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "x"])
def test_a_coefficient_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "costs.json"
    models = {role: dataclasses.asdict(COST) for role in ("prefill", "decode")}
    path.write_text(json.dumps({**models, "decode": {**models["decode"], "step_seconds": value}}))
    with pytest.raises(SimulationError, match=r"costs\.json"):
        RunningCosts.read(path)
