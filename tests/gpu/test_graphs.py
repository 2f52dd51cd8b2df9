"""CUDA graphs say what launches say, within their budget, and no step waits for a compiler."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lengthwise_engine.errors import DeviceMemoryError
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

SAMPLINGS = [
    SamplingParameters(temperature=0.0),
    SamplingParameters(temperature=1.2, top_k=30, top_p=0.9, seed=11),
    SamplingParameters(temperature=0.7, seed=12, repetition_penalty=1.2, top_logprobs=2),
    SamplingParameters(temperature=0.0, top_logprobs=1),
    SamplingParameters(temperature=1.0, seed=13),
]


def _load(folder: Path, graph_memory_bytes: int) -> LoadedModel:
    return load_runner(
        folder,
        device="cuda",
        num_blocks=64,
        kv_memory_bytes=0,
        dtype=torch.float32,
        graphs=GraphPlan(memory_bytes=graph_memory_bytes, rows=(1, 8), prompt_tokens=(64, 256)),
    )


def _texts(loaded: LoadedModel, count: int) -> list[list[int]]:
    """Prompts of 3 to 39 tokens in one step, then `count` - 1 more tokens of each."""
    rows = [[(5 * i + row) % 250 for i in range(3 + 9 * row)] for row in range(5)]
    starts, prompts = [0] * 5, [len(row) for row in rows]
    for _ in range(count):
        chunks = [
            SequenceChunk(
                token_ids=row[start:],
                start=start,
                block_ids=range(8 * index, 8 * index + 8),
                sampling=SamplingState(
                    sampling=SAMPLINGS[index], token_ids=list(row), num_prompt_tokens=prompts[index]
                ),
            )
            for index, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]
        starts = [len(row) for row in rows]
        for row, token in zip(rows, loaded.runner.run(chunks), strict=True):
            assert token is not None
            row.append(token.token_id)
    return [row[prompt:] for row, prompt in zip(rows, prompts, strict=True)]


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "qwen3-biases-layer-types"])
def test_text_from_graphs_is_that_of_launches(
    make_checkpoint: Callable[..., Path], variant: str
) -> None:
    folder = make_checkpoint(variant)
    graphs, launches = _load(folder, 256 << 20), _load(folder, 0)
    assert _texts(graphs, 12) == _texts(launches, 12)
    assert graphs.steps.replayed["decode"] >= 10
    assert 0 < graphs.steps.graph_bytes <= 256 << 20
    assert not launches.steps.replayed


def test_rows_follow_tokens_that_the_host_has_not_seen(
    make_checkpoint: Callable[..., Path],
) -> None:
    """Ten steps are launched before the first token is read."""
    loaded = _load(make_checkpoint("qwen2"), 256 << 20)
    assert loaded.runner.runs_ahead
    prompt, greedy = [(5 * i) % 250 for i in range(20)], SamplingParameters(temperature=0.0)

    def chunk(step: int, known: list[int]) -> SequenceChunk:
        return SequenceChunk(
            token_ids=(0,) if step else prompt,
            start=len(prompt) + step - 1 if step else 0,
            block_ids=range(8),
            sampling=SamplingState(sampling=greedy, token_ids=known, num_prompt_tokens=len(prompt)),
            follows=0 if step else None,
        )

    pending = [
        loaded.runner.launch([chunk(step, [0] * (len(prompt) + max(0, step - 1)))])
        for step in range(10)
    ]
    tokens = [token.token_id for step in pending for token in step.tokens() if token is not None]
    state, expected = list(prompt), list[int]()
    for _ in range(10):
        start = 0 if not expected else len(state) - 1
        (token,) = loaded.runner.run([
            SequenceChunk(
                token_ids=state[start:],
                start=start,
                block_ids=range(8),
                sampling=SamplingState(
                    sampling=greedy, token_ids=list(state), num_prompt_tokens=len(prompt)
                ),
            )
        ])  # fmt: skip
        assert token is not None
        expected.append(token.token_id)
        state.append(token.token_id)
    assert tokens == expected


@pytest.mark.parametrize("graph_memory_bytes", [0, 256 << 20], ids=["launched", "replayed"])
def test_launching_waits_for_nothing(
    make_checkpoint: Callable[..., Path], graph_memory_bytes: int
) -> None:
    """Greedy, drawn, penalised and reported tokens."""
    loaded = _load(make_checkpoint("qwen3"), graph_memory_bytes)
    chunks = [
        SequenceChunk(
            token_ids=[7],
            start=20,
            block_ids=range(4 * index, 4 * index + 4),
            sampling=SamplingState(sampling=sampling, token_ids=[7] * 21, num_prompt_tokens=9),
        )
        for index, sampling in enumerate(SAMPLINGS)
    ]
    expected = loaded.runner.run(chunks)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step = loaded.runner.launch(chunks)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.tokens() == expected


def test_no_step_compiles_a_kernel_once_a_model_is_loaded(
    make_checkpoint: Callable[..., Path],
) -> None:
    """Compiling one takes longer than a second."""
    loaded = _load(make_checkpoint("qwen3"), 0)
    began_at = time.monotonic()
    _texts(loaded, 3)
    assert time.monotonic() - began_at < 1.0


def test_graphs_that_do_not_fit_are_refused_at_the_start(
    make_checkpoint: Callable[..., Path],
) -> None:
    with pytest.raises(DeviceMemoryError, match="blocks fit beside the graphs"):
        _load(make_checkpoint("llama"), 1 << 60)
