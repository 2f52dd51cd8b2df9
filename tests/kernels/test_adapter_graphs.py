"""Steps whose rows have adapters, replayed: which they are lies in tensors alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.lora.adapters import best_tokens, merged, write_adapter
from kernels.frozen_recorder import FrozenRecorder

from lengthwise_engine.models.adapters.room import AdapterSettings
from lengthwise_engine.runner.graph_shapes import GraphPlan

pytest.importorskip("triton", reason="Triton is not installed")
from kernels.graph_runners import ALL, new_runner, prompts_of, ragged, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def qwen(make_checkpoint: Callable[..., Path], on_kernels: None) -> Path:
    return make_checkpoint("qwen2", num_hidden_layers=1)


@pytest.fixture
def adapters(qwen: Path, tmp_path: Path) -> AdapterSettings:
    return AdapterSettings(
        folders={
            "all": write_adapter(tmp_path / "all", qwen, seed=1),
            "some": write_adapter(
                tmp_path / "some", qwen, seed=2, rank=2, targets=("q_proj", "v_proj", "down_proj")
            ),
        }
    )


def test_one_graph_serves_any_mix_of_adapters(qwen: Path, adapters: AdapterSettings) -> None:
    """Ragged batches in padded shapes; a graph's rows have other adapters each time, and some have
    none."""
    expected, got = ragged(), ragged()
    for requests in (expected, got):
        for index, request in enumerate(requests):
            request.adapter = (0, 1, None)[index % 3]
    serve(new_runner(qwen, 0, None, adapters), expected)
    runner = new_runner(qwen, ALL, FrozenRecorder(), adapters)
    serve(runner, got)
    assert [each.text for each in got] == [each.text for each in expected]
    assert runner.counts.replayed["decode"] >= 2
    greedy = expected[0]
    assert greedy.text == best_tokens(
        merged(qwen, adapters.folders["all"]), greedy.prompt, greedy.max_tokens
    )


def test_steps_with_adapters_are_captured_beside_those_without(
    qwen: Path, adapters: AdapterSettings
) -> None:
    runner = new_runner(qwen, ALL, FrozenRecorder(), adapters)
    assert runner.graphs is not None
    runner.graphs.plan = GraphPlan(memory_bytes=ALL, rows=(2,), prompt_tokens=())
    runner.capture_graphs()
    assert runner.counts.graphs == 2 * 2  # greedy and drawn
    launched = runner.counts.launched.copy()
    first, second = (request.chunk() for request in prompts_of([1, 1]))
    for numbers in ((None, None), (1, 0)):
        runner.run([replace(first, adapter=numbers[0]), replace(second, adapter=numbers[1])])
    assert runner.counts.launched == launched
