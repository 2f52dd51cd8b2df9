"""The runner's contract: what it refuses, and how its cache is sized."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthwise_engine.errors import CacheSizeError, StepError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.loading import LoadedModel, load_runner
from lengthwise_engine.models.loading import load_model
from lengthwise_engine.runner import SequenceChunk
from lengthwise_engine.sampler import SampledToken, Sampling, SamplingState
from lengthwise_engine.torch_runner import TorchRunner
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

Generate = Callable[..., list[list[SampledToken]]]

BROKEN_CHUNKS: dict[str, tuple[dict[str, Any], str]] = {
    "no-tokens": ({"token_ids": []}, "needs one token or more"),
    "negative-start": ({"start": -1}, "needs one token or more"),
    "beyond-the-context": ({"start": 2046, "block_ids": range(129)}, r"within \[0, 2048\)"),
    "token-beyond-vocabulary": ({"token_ids": [1, 260, 2]}, r"token ids must lie in \[0, 260\)"),
    "negative-token": ({"token_ids": [1, -1, 2]}, "token ids must lie in"),
    "too-few-blocks": ({"start": 14, "block_ids": [3]}, "17 tokens need 2 blocks of 16, got 1"),
    "foreign-block": ({"block_ids": [300]}, r"block ids must lie in \[0, 300\)"),
    "negative-block": ({"block_ids": [-1]}, "block ids must lie in"),
    "sampling-too-early": (
        {
            "sampling": SamplingState(
                sampling=Sampling(), token_ids=[1, 2, 3, 4], num_prompt_tokens=4
            )
        },
        "sampled after all 4 tokens of the sequence, but the chunk ends at 3",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_a_broken_chunk_is_refused_before_anything_is_computed(
    change: dict[str, Any], message: str, toy: LoadedModel
) -> None:
    sound: dict[str, Any] = {
        "token_ids": [1, 2, 3],
        "start": 0,
        "block_ids": [7],
        "sampling": None,
    }
    chunks = [SequenceChunk(**sound), SequenceChunk(**(sound | change))]
    with pytest.raises(StepError, match=f"^chunk 1: .*{message}"):
        toy.runner.run(chunks)
    assert not toy.cache.tensor.any()


def test_sampling_is_honoured_and_does_not_depend_on_the_batch(
    make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    loaded = load_runner(make_checkpoint("qwen3"), device="cpu", num_blocks=60, kv_memory_bytes=0)
    prompts = [[1, 2, 3], list(range(50)), [9] * 20, [4, 5]]
    samplings = [
        Sampling(seed=3, temperature=0.8, top_p=0.9, top_logprobs=2),
        Sampling(seed=4, temperature=1.3, top_k=20),
        Sampling(temperature=0.0),
        Sampling(seed=2**64 - 1, presence_penalty=0.5),
    ]
    together = generate(loaded, prompts, 12, samplings=samplings)
    for prompt, sampling, text in zip(prompts, samplings, together, strict=True):
        (alone,) = generate(loaded, [prompt], 12, samplings=[sampling], chunk_sizes=[2])
        assert [token.token_id for token in alone] == [token.token_id for token in text]
    assert all(len(token.top_logprobs) == 2 for token in together[0])


def test_a_model_refuses_a_cache_of_another_type(make_checkpoint: Callable[..., Path]) -> None:
    model = load_model(make_checkpoint("llama"), torch.device("cpu"))
    layout = model.spec.kv_layout(block_size=16, dtype="bfloat16")
    cache = KVCache.allocate(layout, 2, torch.device("cpu"))
    with pytest.raises(CacheSizeError, match=r"needs KVLayout.*float32.*got KVLayout.*bfloat16"):
        TorchRunner(model, cache)


def test_the_memory_budget_becomes_whole_blocks(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path, num_layers=2, context_length=160)
    block_bytes = 2 * (2 * 16 * 2 * 4 * 4)
    budget = 11 * block_bytes + block_bytes - 1
    loaded = load_runner(tmp_path, device="cpu", num_blocks=None, kv_memory_bytes=budget)
    assert loaded.cache.num_blocks == 11
    assert len(loaded.fingerprint) == 16
    asked = load_runner(tmp_path, device="cpu", num_blocks=3, kv_memory_bytes=budget)
    assert asked.cache.num_blocks == 3


def test_a_budget_below_one_context_is_refused(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path, num_layers=2, context_length=160)
    with pytest.raises(CacheSizeError, match=r"hold 9 KV blocks, but .* 160 tokens needs 10"):
        load_runner(tmp_path, device="cpu", num_blocks=None, kv_memory_bytes=10 * 2048 - 1)
