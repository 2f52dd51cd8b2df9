"""Runners over the real kernels in Triton's interpreter, and the requests that they serve."""

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
from lengthwise_engine.models.adapters import stack
from lengthwise_engine.models.adapters.room import NO_ADAPTERS, AdapterSettings
from lengthwise_engine.models.decoder_loader import load_model, read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner import graph_shapes, sampler, step_tensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_kernels.gpu import kv_clear, kv_store, sampling
from lengthwise_kernels.gpu.adapters import low_rank
from lengthwise_kernels.gpu.attention import plan

# Of the others nothing depends on lengths, and the interpreter is slow.
KERNELS: dict[str, Callable[..., Any]] = {
    "add_low_rank": low_rank.add_low_rank,
    "clear_blocks": kv_clear.clear_blocks,
    "lay_out_adapters": lambda device, *rest: low_rank.lay_out_adapters(*rest),
    "lay_out_attention": plan.lay_out_attention,
    "rotate_and_store": kv_store.rotate_and_store,
    "sample_tokens": sampling.sample_tokens,
}
GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=1.3, top_k=40, top_p=0.9, seed=7)
ALL = 1 << 40
NUM_BLOCKS = 96


_kernels_are_on = True


def switch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's operations are Triton's, interpreted, but for a `PlainRunner`'s. Each row that
    is padded is a program at least, so that shapes are the smallest that serve the tests."""
    monkeypatch.setattr(graph_shapes, "PROMPTS", (4,))
    monkeypatch.setattr(graph_shapes, "MAX_PROMPT", 40)
    monkeypatch.setattr(graph_shapes, "MIXED_ROWS", (3,))
    monkeypatch.setattr(graph_shapes, "MIXED_PROMPTS", 2)
    for name, kernel in KERNELS.items():
        for module in (decoder, stack, step_tensors, sampler):
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
    adapter: int | None = None
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
            token_ids=so_far[start:],
            start=start,
            block_ids=self.blocks,
            sampling=state,
            adapter=self.adapter,
        )


def new_runner(
    folder: Path,
    graph_memory_bytes: int,
    recorder: FrozenRecorder | None,
    adapters: AdapterSettings = NO_ADAPTERS,
) -> TorchRunner:
    """Without a recorder a plain one. With one, blocks hold no numbers at first, and graphs are
    captured when their steps come: all that are planned would take the interpreter minutes."""
    cpu = torch.device("cpu")
    room = adapters.room(ModelShard(whole=read_spec(folder)), cpu, torch.float32)
    model = load_model(folder, cpu, torch.float32, adapters=room)
    layout = KVLayout.of(model.spec, block_size=16, dtype="float32")
    cache = KVCache.allocate(layout, NUM_BLOCKS, cpu)
    if recorder is None:
        return PlainRunner(model, cache)
    cache.tensor.fill_(torch.nan)
    plan = GraphPlan(memory_bytes=graph_memory_bytes, prompt_tokens=(16, 32, 48))
    runner = TorchRunner(model, cache, recorder=recorder, graphs=plan)
    if runner.graphs is not None:
        runner.graphs.captures = True
    return runner


def plain_runner(folder: Path) -> TorchRunner:
    return new_runner(folder, 0, None)


def serve(runner: TorchRunner, requests: Sequence[Request]) -> None:
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


def ragged() -> list[Request]:
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


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[Request]:
    """Requests for one token, in blocks of their own."""
    requests = [
        Request(prompt=[(5 * i + 3 * length + seed) % 250 for i in range(length)], max_tokens=1)
        for length in lengths
    ]
    for index, request in enumerate(requests):
        request.blocks = list(range(6 * index, 6 * index + 6))
    return requests
