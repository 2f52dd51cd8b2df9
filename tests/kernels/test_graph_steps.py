"""Steps from graphs say what steps launched one by one say, and touch nothing else.

A GPU's graphs freeze everything that is not a tensor. Here a graph is a body that is called again
with what it was captured with (`FrozenRecorder`), over the real kernels in Triton's interpreter: a
length or a list of the present step that it took from elsewhere would be missing or wrong.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from lengthwise_engine import sampler, step_tensors
from lengthwise_engine.graph import FrozenRecorder
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.models import decoder
from lengthwise_engine.models.loading import load_model
from lengthwise_engine.runner import SequenceChunk
from lengthwise_engine.sampler import SampledToken, Sampling, SamplingState
from lengthwise_engine.torch_runner import TorchRunner

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import (
    attention,
    kv_clear,
    kv_store,
    rms_norm,
    sampling,
    silu_mul,
)

KERNELS = {
    "add_rms_norm": rms_norm.add_rms_norm,
    "clear_blocks": kv_clear.clear_blocks,
    "lay_out_attention": attention.lay_out_attention,
    "rms_norm": rms_norm.rms_norm,
    "rotate_and_store": kv_store.rotate_and_store,
    "sample_tokens": sampling.sample_tokens,
    "silu_mul": silu_mul.silu_mul,
}
GREEDY = Sampling(temperature=0.0)
HOT = Sampling(temperature=1.3, top_k=40, top_p=0.9, seed=7)
ALL = 1 << 40
NUM_BLOCKS = 96


@pytest.fixture
def on_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's operations are Triton's, interpreted."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_graphs.py runs graphs on the GPU")
    for name, kernel in KERNELS.items():
        for module in (decoder, step_tensors, sampler):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, kernel)


@dataclass
class Request:
    """`joins` is the step in which its prompt is computed."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling = GREEDY
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
    model = load_model(folder, torch.device("cpu"), torch.float32)
    layout = model.spec.kv_layout(block_size=16, dtype="float32")
    cache = KVCache.allocate(layout, NUM_BLOCKS, torch.device("cpu"))
    cache.tensor.fill_(torch.nan)
    return TorchRunner(model, cache, recorder=recorder, graph_memory_bytes=graph_memory_bytes)


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
    """Lengths from 2 to 77, joining and leaving; batches of 1 to 6 rows."""
    plan = ((5, 4, 0), (77, 9, 0), (16, 3, 1), (31, 7, 2), (2, 5, 2), (50, 6, 3), (40, 2, 7))
    return [
        Request(
            prompt=[(7 * i + length) % 250 for i in range(length)],
            max_tokens=count,
            sampling=HOT if index % 3 == 1 else GREEDY,
            joins=joins,
        )
        for index, (length, count, joins) in enumerate(plan)
    ]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("variant", ["llama-gqa-tied", "qwen3-biases-layer-types"])
def test_text_from_graphs_is_that_of_plain_pytorch(
    variant: str, make_checkpoint: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    """Ragged batches in padded rooms; every block but those in use holds no numbers at first, and
    what former owners left afterwards."""
    folder = make_checkpoint(variant)
    expected = _ragged()
    plain = _runner(folder, 0, None)
    plain._cache.tensor.zero_()
    _serve(plain, expected)
    request.getfixturevalue("on_kernels")
    got = _ragged()
    runner = _runner(folder, ALL, FrozenRecorder())
    _serve(runner, got)
    assert [each.text for each in got] == [each.text for each in expected]
    counts = runner.counts
    assert counts.graphs == counts.launched.total() >= 4
    assert counts.replayed["decode"] > 4
