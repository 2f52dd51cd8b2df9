"""`numerics: invariant`: tokens and log-probabilities of a request are those it has alone, to the
bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.random_schedule import (
    NUM_BLOCKS,
    CachedRunner,
    alone,
    in_crowds,
    random_requests,
)

from lengthwise_engine.errors import NumericsError
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_kernels.packed import linear
from lengthwise_worker.config import WorkerConfig

Load = Callable[..., LoadedModel]


@pytest.fixture
def load(make_checkpoint: Callable[[str], Path]) -> Load:
    """Loads a variant on a CPU with caches of NUM_BLOCKS blocks."""

    def load(variant: str, **options: Any) -> LoadedModel:
        folder = make_checkpoint(variant)
        return load_runner(folder, device="cpu", num_blocks=NUM_BLOCKS, **options)

    return load


def _differing(models: list[LoadedModel], count: int, seed: int) -> int:
    """How many of the requests are answered another way in crowds than alone."""
    workers = [CachedRunner(model.runner, model.cache) for model in models]
    requests = random_requests(count, models[0].spec.vocab_size, seed)
    crowded = in_crowds(workers, requests, seed)
    expected = [alone(workers[0], request) for request in requests]
    return sum(one != other for one, other in zip(crowded, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "dtype", "quantization", "kv_dtype"),
    [
        ("llama", torch.bfloat16, "none", "auto"),
        ("qwen2-some-windows", torch.bfloat16, "none", "int8"),
        ("mistral-window", torch.float16, "none", "auto"),
        ("qwen3", torch.float32, "none", "int8"),
        ("llama-biases", torch.bfloat16, "fp8", "int8"),
        ("llama-biases", torch.bfloat16, "int8", "auto"),
        ("qwen3", torch.float32, "int4", "auto"),
        ("qwen3_moe", torch.bfloat16, "none", "auto"),
        ("qwen3_moe-some-dense", torch.float32, "none", "auto"),
        ("mixtral", torch.bfloat16, "int8", "auto"),
    ],
)
def test_an_invariant_answer_is_the_same_in_any_batch_chunk_and_worker(
    variant: str, dtype: torch.dtype, quantization: str, kv_dtype: str, load: Load
) -> None:
    options: dict[str, Any] = {"dtype": dtype, "quantization": quantization, "kv_dtype": kv_dtype}
    options["numerics"] = "invariant"
    models = [load(variant, **options), load(variant, **options)]
    assert _differing(models, 12, seed=1) == 0


@pytest.mark.slow
def test_a_fast_answer_depends_on_the_batch(load: Load) -> None:
    model = load("llama", dtype=torch.float32, numerics="fast")
    assert _differing([model], 8, seed=1) > 0


def test_workers_that_compute_otherwise_do_not_share_a_fingerprint(load: Load) -> None:
    """Invariant ones are alike, whatever threads they have; others are no partners for them."""
    before = torch.get_num_threads()
    models = []
    try:
        for threads, numerics in ((1, "invariant"), (2, "invariant"), (1, "fast")):
            torch.set_num_threads(threads)
            models.append(load("llama", dtype=torch.bfloat16, numerics=numerics))
    finally:
        torch.set_num_threads(before)
    first, second, fast = models
    assert first.numerics
    assert first.numerics == second.numerics
    assert first.fingerprint == second.fingerprint
    assert (fast.numerics, fast.fingerprint == first.fingerprint) == ("", False)


def test_by_default_a_cpu_is_invariant_and_a_partner_of_any_other(load: Load) -> None:
    default = WorkerConfig(model="any").numerics
    auto, fast = load("llama", numerics=default), load("llama", numerics="fast")
    assert (auto.is_invariant, fast.is_invariant) == (True, False)
    assert (auto.numerics, auto.fingerprint) == ("", fast.fingerprint)


def test_several_ranks_that_are_asked_to_be_invariant_do_not_start(load: Load) -> None:
    with pytest.raises(NumericsError, match="numerics: got invariant, but sums over several ranks"):
        load("llama", tensor_parallel_size=2, numerics="invariant")


def test_a_machine_that_varies_is_found_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its libraries had another kernel for single rows, and that had gone unnoticed."""

    def vary(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, lone: bool
    ) -> torch.Tensor:
        result = linear(x, weight, bias)
        return result + 1e-3 if len(x) == 1 else result

    monkeypatch.setattr("lengthwise_engine.models.linear.invariant_linear", vary)
    with pytest.raises(NumericsError, match=r"qkv.*head vary with the number of rows"):
        load("llama", dtype=torch.float32, numerics="invariant")
    assert not load("llama", dtype=torch.float32, numerics="auto").is_invariant
