"""Steps from graphs say what steps launched one by one say, and touch nothing else.

A GPU's graphs freeze everything that is not a tensor. Here a graph is a body that is called again
with what it was captured with (`FrozenRecorder`), over the real kernels in Triton's interpreter: a
length or a list of the present step that it took from elsewhere would be missing or wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from kernels.frozen_recorder import FrozenRecorder

from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner

pytest.importorskip("triton", reason="Triton is not installed")
from kernels.graph_runners import (
    ALL,
    GREEDY,
    NUM_BLOCKS,
    Request,
    new_runner,
    plain_runner,
    prompts_of,
    ragged,
    serve,
)

from lengthwise_kernels.gpu.attention import prefix_groups

pytestmark = pytest.mark.timeout(240)
interpreted = pytest.mark.slow  # seconds each


@interpreted
def test_text_from_graphs_is_that_of_plain_pytorch(
    make_checkpoint: Callable[..., Path], on_kernels: None
) -> None:
    """Ragged batches in padded shapes; every block but those in use holds no numbers at first, and
    what former owners left afterwards."""
    layers = ["sliding_attention", "full_attention"]
    folder = make_checkpoint("qwen3-biases-layer-types", num_hidden_layers=2, layer_types=layers)
    expected, got = ragged(), ragged()
    serve(plain_runner(folder), expected)
    runner = new_runner(folder, ALL, FrozenRecorder())
    serve(runner, got)
    assert [each.text for each in got] == [each.text for each in expected]
    counts = runner.counts
    assert counts.graphs == counts.launched.total() >= 4
    assert counts.replayed["decode"] >= 2


@interpreted
def test_one_graph_serves_every_mix_of_prompts_of_its_shape(qwen: Path) -> None:
    """32 tokens at most in 4 chunks at most: other lengths, fewer chunks, some after a history."""
    eager, graphs = plain_runner(qwen), new_runner(qwen, ALL, FrozenRecorder())
    for runner in (eager, graphs):
        runner._cache.tensor.zero_()
    for lengths in ([10, 4, 15], [8, 8, 8, 8], [15, 2, 7]):
        chunks = [request.chunk() for request in prompts_of(lengths)]
        assert graphs.run(chunks) == eager.run(chunks)
    # The other half of each prompt, after a history, without a token wanted of the second.
    halves = []
    for index, request in enumerate(prompts_of([20, 18, 22], seed=3)):
        chunk = request.chunk()
        first = SequenceChunk(
            token_ids=chunk.token_ids[:10], start=0, block_ids=chunk.block_ids, sampling=None
        )
        halves.append((first, SequenceChunk(
            token_ids=chunk.token_ids[10:],
            start=10,
            block_ids=chunk.block_ids,
            sampling=None if index == 1 else chunk.sampling,
        )))  # fmt: skip
    for half in zip(*halves, strict=True):
        assert graphs.run(half) == eager.run(half)
    assert graphs.counts.graphs == 1
    assert graphs.counts.replayed == {"prefill": 4}
    torch.testing.assert_close(graphs._cache.tensor, eager._cache.tensor, atol=1e-5, rtol=1e-5)


@interpreted
def test_padding_leaves_the_blocks_of_others_alone(qwen: Path) -> None:
    runner = new_runner(qwen, ALL, FrozenRecorder())
    (request,) = prompts_of([18])
    request.blocks = [7, 50]
    for _ in range(2):
        runner.run([request.chunk()])
    own = torch.zeros(NUM_BLOCKS, dtype=torch.bool)
    own[request.blocks] = True
    assert runner.counts.replayed == {"prefill": 1}
    assert runner._cache.tensor[:, ~own].isnan().all()
    assert not runner._cache.tensor[:, own].isnan().any()


@interpreted
def test_rows_follow_the_step_before_from_graph_to_graph(qwen: Path) -> None:
    """Rows that swap places, padded to four, after an eager step and after replayed ones; two have
    penalties for tokens that only the device knows."""
    runner = new_runner(qwen, ALL, FrozenRecorder())
    requests = prompts_of([3, 15, 6])
    expected = [list[int]() for _ in requests]
    repeating = SamplingParameters(temperature=0.0, frequency_penalty=2.0, repetition_penalty=1.5)
    hot = SamplingParameters(temperature=0.5, seed=9, presence_penalty=1.0, top_k=20)
    for request, sampling in zip(requests, (GREEDY, repeating, hot), strict=True):
        request.max_tokens, request.sampling = 5, sampling
    _follow_none(plain_runner(qwen), requests, expected)
    order = [0, 1, 2]
    first = [request.chunk() for request in requests]
    states = [chunk.sampling for chunk in first]
    pending = runner.launch(first)
    got = [[token.token_id for token in pending.tokens() if token is not None]]
    for step in range(4):
        before, order = order, [order[1], order[2], order[0]]
        for request, state, text in zip(requests, states, expected, strict=True):
            assert state is not None
            state.token_ids = request.prompt + text[:step]
        chunks = [
            SequenceChunk(
                token_ids=(0,),
                start=len(requests[row].prompt) + step,
                block_ids=requests[row].blocks,
                sampling=states[row],
                follows=before.index(row),
            )
            for row in order
        ]
        tokens = runner.launch(chunks).tokens()
        by_row = dict(zip(order, tokens, strict=True))
        got.append([token.token_id for row in range(3) if (token := by_row[row]) is not None])
    assert [list(column) for column in zip(*got, strict=True)] == expected
    assert runner.counts.replayed["decode"] == 3


def _follow_none(
    runner: TorchRunner, requests: Sequence[Request], texts: Sequence[list[int]]
) -> None:
    """The same requests with every token known, five of each."""
    for request, text in zip(requests, texts, strict=True):
        while not request.done:
            (token,) = runner.run([request.chunk()])
            assert token is not None
            request.tokens.append(token)
        text += request.text
        request.tokens.clear()


@interpreted
def test_biases_and_logprobs_are_computed_beside_the_graph(qwen: Path) -> None:
    eager, graphs = plain_runner(qwen), new_runner(qwen, ALL, FrozenRecorder())
    chunks = [request.chunk() for request in prompts_of([5, 9, 4])]
    for chunk, asked in zip(
        chunks,
        (
            SamplingParameters(temperature=0.8, seed=5, repetition_penalty=1.5, top_logprobs=3),
            SamplingParameters(temperature=0.0, top_logprobs=0),
            SamplingParameters(
                temperature=1.1,
                seed=2**63 + 9,
                min_p=0.05,
                logit_bias={7: 3.0, 11: -100.0},
                min_tokens=1,
                stop_token_ids=frozenset(range(256, 320)),
            ),
        ),
        strict=True,
    ):
        assert chunk.sampling is not None
        chunk.sampling.sampling = asked
    expected = eager.run(chunks)
    for _ in range(2):
        for token, wanted in zip(graphs.run(chunks), expected, strict=True):
            assert token is not None
            assert wanted is not None
            assert token.token_id == wanted.token_id
            assert [id_ for id_, _ in token.top_logprobs] == [id_ for id_, _ in wanted.top_logprobs]
            assert (token.logprob or 0.0) == pytest.approx(wanted.logprob or 0.0, abs=1e-4)
    assert graphs.counts.replayed == {"prefill": 1}


@interpreted
def test_rows_with_a_common_prefix_are_replayed_too(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows share 256 tokens, a fourth has nothing in common with them."""
    monkeypatch.setattr(prefix_groups, "SECOND_PASS_BYTES", 0)
    eager, graphs = plain_runner(qwen), new_runner(qwen, ALL, FrozenRecorder())
    for runner in (eager, graphs):
        runner._cache.tensor.copy_(
            torch.randn(runner._cache.tensor.shape, generator=torch.Generator().manual_seed(1))
        )
    tables = [[*range(16), *range(16 + 3 * row, 19 + 3 * row)] for row in range(3)]
    tables.append(list(range(60, 64)))
    ends = [258, 276, 257, 40]
    for step in range(3):
        chunks = [
            SequenceChunk(
                token_ids=[step],
                start=end + step,
                block_ids=table,
                sampling=SamplingState(
                    sampling=GREEDY, token_ids=[step] * (end + step + 1), num_prompt_tokens=1
                ),
            )
            for end, table in zip(ends, tables, strict=True)
        ]
        assert graphs.run(chunks) == eager.run(chunks)
    torch.testing.assert_close(graphs._cache.tensor, eager._cache.tensor, atol=1e-5, rtol=1e-5)
    assert graphs.counts.replayed == {"decode": 2}
    assert graphs.graphs is not None
    assert all("splits=0" not in repr(form) for form, _ in graphs.graphs._graphs)


@interpreted
def test_layers_are_announced_after_a_replayed_step(qwen: Path) -> None:
    runner = new_runner(qwen, ALL, FrozenRecorder())
    chunks = [request.chunk() for request in prompts_of([20])]
    for _ in range(2):
        seen: list[int] = []
        runner.run(chunks, seen.append)
        assert seen == [0, 1]
    assert runner.counts.replayed == {"prefill": 1}
