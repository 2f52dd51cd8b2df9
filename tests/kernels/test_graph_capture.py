"""What is captured, and what becomes of steps that are not."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels.frozen_recorder import FrozenRecorder

from lengthwise_engine.runner.graph_recorder import Body, Graph
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.sampler import SamplingState

pytest.importorskip("triton", reason="Triton is not installed")
from engine.ranks import ranks_in_threads
from kernels.graph_runners import (
    ALL,
    GREEDY,
    HOT,
    NUM_BLOCKS,
    new_runner,
    plain_runner,
    prompts_of,
    serve,
)
from triton.runtime.interpreter import GridExecutor

pytestmark = pytest.mark.timeout(600)
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
    """All forms of what is planned serve greedy and drawn requests; the rest is launched."""
    runner = new_runner(qwen, ALL, FrozenRecorder())
    assert runner.graphs is not None
    runner.graphs.plan = GraphPlan(memory_bytes=ALL, rows=(2,), prompt_tokens=(16,))
    runner.capture_graphs()
    assert runner.counts.graphs == 2 + 1  # rows greedy and drawn
    assert runner.counts.capture_seconds > 0
    launched = runner.counts.launched.copy()
    requests = prompts_of([9, 5])
    for sampling in (GREEDY, HOT):
        for request in requests:
            request.tokens, request.max_tokens, request.sampling = [], 3, sampling
        serve(runner, requests)
    assert runner.counts.launched == launched
    runner.run([request.chunk() for request in prompts_of([30])])
    assert runner.counts.launched.total() == launched.total() + 1
    assert runner.counts.graphs == 2 + 1


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


@interpreted
def test_ranks_replay_what_one_computes(
    make_checkpoint: Callable[..., Path], on_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks capture alike, and choose alike, though only rank 0 knows how tokens are drawn."""
    _one_kernel_at_a_time(monkeypatch)
    folder = make_checkpoint("llama-biases", num_hidden_layers=1)
    chunks = [request.chunk() for request in prompts_of([9, 4])]
    rows = [
        replace(chunk, token_ids=[5], start=len(chunk.token_ids), sampling=SamplingState(
            sampling=HOT if drawn else GREEDY,
            token_ids=[*chunk.token_ids, 5],
            num_prompt_tokens=len(chunk.token_ids),
        ))
        for chunk, drawn in zip(chunks, (True, False), strict=True)
    ]  # fmt: skip
    plan = GraphPlan(memory_bytes=ALL, rows=(2,), prompt_tokens=(16,))
    steps = [chunks, rows, [replace(row, sampling=rows[1].sampling) for row in rows[1:] * 2]]
    alone = plain_runner(folder)
    recorders = iter([FrozenRecorder(), FrozenRecorder()])
    with ranks_in_threads(
        folder, 2, NUM_BLOCKS, graphs=plan, make_recorder=lambda: next(recorders)
    ) as ranks:
        launched = ranks.runner.counts.launched.copy()
        for step in steps:
            got, expected = ranks.run(step), alone.run(step)
            assert [token and token.token_id for token in got] == [
                token and token.token_id for token in expected
            ]
        assert ranks.runner.counts.replayed == {"prefill": 1, "decode": 2}
        assert ranks.runner.counts.launched == launched


def _one_kernel_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter has one grid, ranks are threads here."""
    lock, launch = threading.Lock(), GridExecutor.__call__

    def locked(self: GridExecutor, *args: Any, **kwargs: Any) -> None:
        with lock:
            launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", locked)
