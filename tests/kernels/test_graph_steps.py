"""Steps from graphs say what steps launched one by one say, and touch nothing else.

A GPU's graphs freeze everything that is not a tensor. Here a graph is a body that is called again
with what it was captured with (`FrozenRecorder`), over the real kernels in Triton's interpreter: a
length or a list of the present step that it took from elsewhere would be missing or wrong.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels.frozen_recorder import FrozenRecorder

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models import decoder
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.runner import sampler, step_tensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.graph_recorder import Body, Graph
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import (
    kv_clear,
    kv_store,
    sampling,
)
from lengthwise_kernels.gpu.attention import plan, prefix_groups

# Of the others nothing depends on lengths, and the interpreter is slow.
KERNELS = {
    "clear_blocks": kv_clear.clear_blocks,
    "lay_out_attention": plan.lay_out_attention,
    "rotate_and_store": kv_store.rotate_and_store,
    "sample_tokens": sampling.sample_tokens,
}
GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=1.3, top_k=40, top_p=0.9, seed=7)
ALL = 1 << 40
NUM_BLOCKS = 96


pytestmark = pytest.mark.timeout(240)
interpreted = pytest.mark.slow  # seconds each
_kernels_are_on = True


@pytest.fixture
def on_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's operations are Triton's, interpreted, but for a `PlainRunner`'s."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_graphs.py runs graphs on the GPU")
    for name, kernel in KERNELS.items():
        for module in (decoder, step_tensors, sampler):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _switched(kernel, getattr(module, name)))


def _switched(kernel: Any, truth: Callable[..., Any]) -> Callable[..., Any]:
    def operation(*args: Any, **kwargs: Any) -> Any:
        return (kernel if _kernels_are_on else truth)(*args, **kwargs)

    return operation


class PlainRunner(TorchRunner):
    """Computes every step anew, on plain PyTorch."""

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        global _kernels_are_on
        _kernels_are_on = False
        try:
            return super().run(chunks, on_layer)
        finally:
            _kernels_are_on = True


@dataclass
class Request:
    """`joins` is the step in which its prompt is computed."""

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParameters = GREEDY
    joins: int = 0
    blocks: list[int] = field(default_factory=list)
    tokens: list[SampledToken] = field(default_factory=list)

    @property
    def text(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def done(self) -> bool:
        return len(self.tokens) == self.max_tokens

    def chunk(self) -> SequenceChunk:
        """What the next step computes of it."""
        so_far = self.prompt + self.text
        start = 0 if not self.tokens else len(so_far) - 1
        state = SamplingState(
            sampling=self.sampling, token_ids=so_far, num_prompt_tokens=len(self.prompt)
        )
        return SequenceChunk(
            token_ids=so_far[start:], start=start, block_ids=self.blocks, sampling=state
        )


def _runner(folder: Path, graph_memory_bytes: int, recorder: FrozenRecorder | None) -> TorchRunner:
    """Without a recorder a plain one. With one, blocks hold no numbers at first."""
    model = load_model(folder, torch.device("cpu"), torch.float32)
    layout = KVLayout.of(model.spec, block_size=16, dtype="float32")
    cache = KVCache.allocate(layout, NUM_BLOCKS, torch.device("cpu"))
    if recorder is None:
        return PlainRunner(model, cache)
    cache.tensor.fill_(torch.nan)
    return TorchRunner(model, cache, recorder=recorder, graph_memory_bytes=graph_memory_bytes)


def _plain(folder: Path) -> TorchRunner:
    return _runner(folder, 0, None)


def _serve(runner: TorchRunner, requests: Sequence[Request]) -> None:
    """Prompts in steps of their own, as a prefill worker computes them, all others together.
    Blocks are given away again as soon as a request ends."""
    free = list(range(NUM_BLOCKS))
    random.Random(5).shuffle(free)
    step, running = 0, list[Request]()
    while not all(request.done for request in requests):
        joining = [request for request in requests if request.joins == step]
        for request in joining:
            count = runner.layout.num_blocks_for(len(request.prompt) + request.max_tokens)
            request.blocks = [free.pop(0) for _ in range(count)]
        for batch in (running, joining):
            if batch:
                tokens = runner.run([request.chunk() for request in batch])
                for request, token in zip(batch, tokens, strict=True):
                    assert token is not None
                    request.tokens.append(token)
        for request in [*running, *joining]:
            if request.done:
                free += request.blocks
        running = [request for request in [*running, *joining] if not request.done]
        step += 1


def _ragged() -> list[Request]:
    """Lengths from 2 to 37, joining and leaving; batches of 1 to 4 rows."""
    plan = ((5, 3, 0), (37, 6, 0), (16, 2, 1), (2, 3, 2), (20, 2, 4))
    return [
        Request(
            prompt=[(7 * i + length) % 250 for i in range(length)],
            max_tokens=count,
            sampling=HOT if index % 3 == 1 else GREEDY,
            joins=joins,
        )
        for index, (length, count, joins) in enumerate(plan)
    ]


@interpreted
def test_text_from_graphs_is_that_of_plain_pytorch(
    make_checkpoint: Callable[..., Path], on_kernels: None
) -> None:
    """Ragged batches in padded shapes; every block but those in use holds no numbers at first, and
    what former owners left afterwards."""
    layers = ["sliding_attention", "full_attention"]
    folder = make_checkpoint("qwen3-biases-layer-types", num_hidden_layers=2, layer_types=layers)
    expected, got = _ragged(), _ragged()
    _serve(_plain(folder), expected)
    runner = _runner(folder, ALL, FrozenRecorder())
    _serve(runner, got)
    assert [each.text for each in got] == [each.text for each in expected]
    counts = runner.counts
    assert counts.graphs == counts.launched.total() >= 4
    assert counts.replayed["decode"] >= 2


@pytest.fixture
def qwen(make_checkpoint: Callable[..., Path], on_kernels: None) -> Path:
    return make_checkpoint("qwen2", num_hidden_layers=2)


def _prompts(lengths: Sequence[int], seed: int = 0) -> list[Request]:
    """Requests for one token, in blocks of their own."""
    requests = [
        Request(prompt=[(5 * i + 3 * length + seed) % 250 for i in range(length)], max_tokens=1)
        for length in lengths
    ]
    for index, request in enumerate(requests):
        request.blocks = list(range(6 * index, 6 * index + 6))
    return requests


@interpreted
def test_one_graph_serves_every_mix_of_prompts_of_its_shape(qwen: Path) -> None:
    """32 tokens at most in 4 chunks at most: other lengths, fewer chunks, some after a history."""
    eager, graphs = _plain(qwen), _runner(qwen, ALL, FrozenRecorder())
    for runner in (eager, graphs):
        runner._cache.tensor.zero_()
    for lengths in ([10, 4, 15], [8, 8, 8, 8], [15, 2, 7]):
        chunks = [request.chunk() for request in _prompts(lengths)]
        assert graphs.run(chunks) == eager.run(chunks)
    # The other half of each prompt, after a history, without a token wanted of the second.
    halves = []
    for index, request in enumerate(_prompts([20, 18, 22], seed=3)):
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
    runner = _runner(qwen, ALL, FrozenRecorder())
    (request,) = _prompts([18])
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
    """Rows that swap places, padded to four, after an eager step and after replayed ones."""
    runner = _runner(qwen, ALL, FrozenRecorder())
    requests = _prompts([3, 15, 6])
    expected = [list[int]() for _ in requests]
    for request in requests:
        request.max_tokens = 5
    _follow_none(_plain(qwen), requests, expected)
    order = [0, 1, 2]
    pending = runner.launch([request.chunk() for request in requests])
    got = [[token.token_id for token in pending.tokens() if token is not None]]
    for step in range(4):
        before, order = order, [order[1], order[2], order[0]]
        chunks = [
            SequenceChunk(
                token_ids=(0,),
                start=len(requests[row].prompt) + step,
                block_ids=requests[row].blocks,
                sampling=SamplingState(
                    sampling=GREEDY,
                    token_ids=requests[row].prompt + expected[row][:step],
                    num_prompt_tokens=len(requests[row].prompt),
                ),
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
def test_penalties_biases_and_logprobs_are_computed_beside_the_graph(qwen: Path) -> None:
    eager, graphs = _plain(qwen), _runner(qwen, ALL, FrozenRecorder())
    chunks = [request.chunk() for request in _prompts([5, 9, 4])]
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
    eager, graphs = _plain(qwen), _runner(qwen, ALL, FrozenRecorder())
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
    assert graphs._graphs is not None
    assert all("splits=0" not in repr(form) for form, _ in graphs._graphs._graphs)


@interpreted
def test_no_graph_is_captured_beyond_the_budget(qwen: Path) -> None:
    """Input and output take their part; then there is room for two graphs, and steps of a third
    kind are launched as they are."""
    own = _runner(qwen, ALL, FrozenRecorder()).counts.graph_bytes
    runner = _runner(qwen, own + 2500, FrozenRecorder(graph_bytes=1000))
    for lengths in ([9], [3, 8], [3, 20], [11], [20, 20]):
        runner.run([request.chunk() for request in _prompts(lengths)])
    assert runner.counts.graphs == 2
    assert runner.counts.graph_bytes == own + 2000
    assert runner.counts.replayed == {"prefill": 1}
    assert runner.counts.launched == {"prefill": 4}


@interpreted
def test_a_device_without_memory_for_a_graph_goes_on_without(qwen: Path) -> None:
    class Full(FrozenRecorder):
        def capture(self, body: Body) -> Graph:
            raise torch.OutOfMemoryError("full")

    eager, graphs = _plain(qwen), _runner(qwen, ALL, Full())
    chunks = [request.chunk() for request in _prompts([5, 9])]
    for _ in range(2):
        assert graphs.run(chunks) == eager.run(chunks)
    assert graphs.counts.graphs == 0
    assert graphs.counts.launched == {"prefill": 2}


@interpreted
def test_layers_are_announced_after_a_replayed_step(qwen: Path) -> None:
    runner = _runner(qwen, ALL, FrozenRecorder())
    chunks = [request.chunk() for request in _prompts([20])]
    for _ in range(2):
        seen: list[int] = []
        runner.run(chunks, seen.append)
        assert seen == [0, 1]
    assert runner.counts.replayed == {"prefill": 1}
