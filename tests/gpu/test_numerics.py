"""`numerics: invariant` on a GPU: tokens and log-probabilities of a request are those it has alone,
to the bit, from graphs or launched; and in fast mode they are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.random_schedule import NUM_BLOCKS, CachedRunner, alone, in_crowds, random_requests

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.graph_shapes import GraphPlan

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(600)]


def _load(folder: Path, **options: Any) -> LoadedModel:
    return load_runner(folder, device="cuda", num_blocks=NUM_BLOCKS, **options)


def _differing(models: list[LoadedModel], count: int) -> int:
    """How many of the requests are answered another way in crowds than alone."""
    workers = [CachedRunner(model.runner, model.cache) for model in models]
    requests = random_requests(count, models[0].spec.vocab_size, 1)
    crowded = in_crowds(workers, requests, 1)
    expected = [alone(workers[0], request) for request in requests]
    return sum(one != other for one, other in zip(crowded, expected, strict=True))


@pytest.mark.parametrize(
    ("variant", "dtype", "quantization"),
    [
        ("llama", torch.bfloat16, "none"),
        ("qwen2-some-windows", torch.bfloat16, "none"),
        ("mistral-window", torch.float16, "none"),
        ("qwen3", torch.float32, "none"),
        ("llama-biases", torch.bfloat16, "fp8"),
        ("qwen3", torch.bfloat16, "int4"),
    ],
)
def test_an_invariant_answer_is_the_same_in_any_batch_chunk_graph_and_worker(
    variant: str, dtype: torch.dtype, quantization: str, make_checkpoint: Callable[[str], Path]
) -> None:
    options = {"dtype": dtype, "quantization": quantization, "numerics": "invariant"}
    folder = make_checkpoint(variant)
    launched = _load(folder, **options)
    graphs = GraphPlan(memory_bytes=1 << 28, rows=(1, 8, 16), prompt_tokens=(64, 256))
    replayed = _load(folder, graphs=graphs, **options)
    assert launched.numerics
    assert launched.fingerprint == replayed.fingerprint
    assert _differing([launched, replayed], 40) == 0


def test_what_is_not_asked_to_be_invariant_is_fast(make_checkpoint: Callable[[str], Path]) -> None:
    folder = make_checkpoint("llama")
    assert not _load(folder, numerics="auto").numerics
    assert _differing([_load(folder, dtype=torch.bfloat16, numerics="fast")], 40) > 0
