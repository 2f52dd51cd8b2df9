"""What is captured, and what becomes of steps that are not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernels.frozen_recorder import FrozenRecorder

from lengthwise_engine.runner.graph_recorder import Body, Graph
from lengthwise_engine.runner.graph_shapes import GraphPlan

pytest.importorskip("triton", reason="Triton is not installed")
from kernels.graph_runners import (
    ALL,
    new_runner,
    plain_runner,
    prompts_of,
    ragged,
    serve,
)

pytestmark = pytest.mark.timeout(240)
interpreted = pytest.mark.slow  # seconds each


@interpreted
def test_mixed_steps_are_replayed_too(qwen: Path) -> None:
    """Decode rows and chunks of prompts in any order; padding writes nowhere."""
    eager, graphs = plain_runner(qwen), new_runner(qwen, ALL, FrozenRecorder())
    for runner in (eager, graphs):
        runner._cache.tensor.zero_()
    for lengths in ([1, 9, 1, 1], [7, 1, 20, 1]):
        requests = prompts_of([length + 12 for length in lengths])
        chunks = []
        for request, length in zip(requests, lengths, strict=True):
            chunk = request.chunk()
            tokens = chunk.token_ids[-length:]
            chunks.append(replace(chunk, token_ids=tokens, start=12))
        chunks[1] = replace(
            chunks[1], sampling=None if len(chunks[1].token_ids) > 1 else chunks[1].sampling
        )
        assert graphs.run(chunks) == eager.run(chunks)
    assert graphs.counts.replayed == {"mixed": 1}
    torch.testing.assert_close(graphs._cache.tensor, eager._cache.tensor, atol=1e-5, rtol=1e-5)


@interpreted
def test_after_the_start_nothing_is_captured(qwen: Path) -> None:
    """All forms of what is planned, in memory for the largest of them, while ragged requests come
    and go; the rest is launched."""
    runner = new_runner(qwen, ALL, FrozenRecorder())
    assert runner.graphs is not None
    runner.graphs.plan = GraphPlan(memory_bytes=ALL, rows=(2, 4), prompt_tokens=(64,))
    runner.capture_graphs()
    captured = runner.counts.graphs
    assert captured == 2 * 2 + 2  # rows greedy and drawn; up to 8 prompts, and up to 64
    assert runner.counts.capture_seconds > 0
    launched = runner.counts.launched.copy()
    expected, got = ragged(), ragged()
    serve(plain_runner(qwen), expected)
    serve(runner, got)
    assert [each.text for each in got] == [each.text for each in expected]
    assert runner.counts.graphs == captured
    assert runner.counts.launched == launched


@interpreted
def test_a_device_without_memory_for_a_graph_goes_on_without(qwen: Path) -> None:
    class Full(FrozenRecorder):
        def capture(self, body: Body) -> Graph:
            raise torch.OutOfMemoryError("full")

    eager, graphs = plain_runner(qwen), new_runner(qwen, ALL, Full())
    chunks = [request.chunk() for request in prompts_of([5, 9])]
    for _ in range(2):
        assert graphs.run(chunks) == eager.run(chunks)
    assert graphs.counts.graphs == 0
    assert graphs.counts.launched == {"prefill": 2}
