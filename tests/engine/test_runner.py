"""The runner's contract: what it refuses, and how its cache is sized."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthwise_engine.errors import CacheSizeError, DeviceMemoryError, StepError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.memory import check_graph_memory
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner
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
                sampling=SamplingParameters(), token_ids=[1, 2, 3, 4], num_prompt_tokens=4
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


def _state(token_ids: list[int], **sampling: Any) -> SamplingState:
    return SamplingState(
        sampling=SamplingParameters(**{"temperature": 0.0, **sampling}),
        token_ids=token_ids,
        num_prompt_tokens=3,
    )


FOLLOWING: dict[str, Any] = {"token_ids": (0,), "start": 3, "block_ids": [7], "follows": 1}

BROKEN_FOLLOWING: dict[str, tuple[dict[str, Any], str]] = {
    "no-such-chunk": ({"follows": 2}, "follows chunk 2 of the step before, which samples no such"),
    "negative-chunk": ({"follows": -1}, "follows chunk -1 of the step before"),
    "nothing-sampled": ({"follows": 0}, "follows chunk 0 of the step before, which samples no"),
    "elsewhere": ({"start": 4}, "is the one token at 3, got 1 from position 4"),
    "more-than-a-token": ({"token_ids": (0, 0)}, "is the one token at 3, got 2 from position 3"),
    "token-known": (
        {"sampling": _state([1, 2, 3, 4])},
        "sampled after all 4 tokens of the sequence, but the chunk ends at 4",
    ),
    "grammar": (
        {"sampling": _state([1, 2, 3], grammar="{}")},
        "a grammar needs every token before",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_FOLLOWING.values(), ids=BROKEN_FOLLOWING)
def test_a_chunk_that_follows_none_is_refused(
    change: dict[str, Any], message: str, toy: LoadedModel
) -> None:
    prompt: dict[str, Any] = {"token_ids": [1, 2, 3], "start": 0, "sampling": None}
    state = _state([1, 2, 3])
    before = [
        SequenceChunk(**prompt, block_ids=[6]),
        SequenceChunk(**(prompt | {"sampling": state}), block_ids=[7]),
    ]
    toy.runner.launch(before)
    written = toy.cache.tensor.clone()
    with pytest.raises(StepError, match=f"^chunk 0: .*{message}"):
        toy.runner.launch([SequenceChunk(**({"sampling": state} | FOLLOWING | change))])
    assert torch.equal(toy.cache.tensor, written)


@pytest.mark.parametrize("variant", ["toy", "asynchronous-toy", "llama"])
def test_a_row_that_follows_samples_as_if_its_token_were_known(
    variant: str, make_checkpoint: Callable[..., Path], tmp_path: Path, generate: Generate
) -> None:
    if variant.endswith("toy"):
        folder = write_toy_checkpoint(
            tmp_path, asynchronous=variant == "asynchronous-toy", step_seconds=0.002
        )
        loaded = load_runner(folder, device="cpu", num_blocks=8, kv_memory_bytes=0)
    else:
        loaded = load_runner(
            make_checkpoint(variant), device="cpu", num_blocks=8, kv_memory_bytes=0
        )
    samplings = [
        SamplingParameters(temperature=0.0, repetition_penalty=1.5, frequency_penalty=0.7),
        SamplingParameters(seed=5),
    ]
    prompts = [list(range(15)), [9, 8, 7]]
    expected = generate(loaded, prompts, 4, samplings=samplings)
    states = [
        SamplingState(sampling=sampling, token_ids=list(prompt), num_prompt_tokens=len(prompt))
        for sampling, prompt in zip(samplings, prompts, strict=True)
    ]
    chunks = [
        SequenceChunk(token_ids=prompt, start=0, block_ids=[2 * row, 2 * row + 1], sampling=state)
        for row, (prompt, state) in enumerate(zip(prompts, states, strict=True))
    ]
    order = [0, 1]
    pending = loaded.runner.launch(chunks)
    for index in range(4):
        order.reverse()
        chunks = [
            SequenceChunk(
                token_ids=(0,),
                start=len(prompts[row]) + index,
                block_ids=[2 * row, 2 * row + 1],
                sampling=states[row],
                follows=1 - place,
            )
            for place, row in enumerate(order)
        ]
        following = loaded.runner.launch(chunks)
        for row, token in zip(reversed(order), pending.tokens(), strict=True):
            assert token == expected[row][index]
            states[row].token_ids = [*states[row].token_ids, token.token_id]
        assert pending.is_ready
        pending = following


@pytest.mark.slow
def test_sampling_is_honoured_and_does_not_depend_on_the_batch(
    make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    loaded = load_runner(make_checkpoint("qwen3"), device="cpu", num_blocks=60, kv_memory_bytes=0)
    prompts = [[1, 2, 3], list(range(50)), [9] * 20, [4, 5]]
    samplings = [
        SamplingParameters(seed=3, temperature=0.8, top_p=0.9, top_logprobs=2),
        SamplingParameters(seed=4, temperature=1.3, top_k=20),
        SamplingParameters(temperature=0.0),
        SamplingParameters(seed=2**64 - 1, presence_penalty=0.5),
    ]
    together = generate(loaded, prompts, 12, samplings=samplings)
    for prompt, sampling, text in zip(prompts, samplings, together, strict=True):
        (alone,) = generate(loaded, [prompt], 12, samplings=[sampling], chunk_sizes=[2])
        assert [token.token_id for token in alone] == [token.token_id for token in text]
    assert all(len(token.top_logprobs) == 2 for token in together[0])


def test_a_model_refuses_a_cache_of_another_type(make_checkpoint: Callable[..., Path]) -> None:
    model = load_model(make_checkpoint("llama"), torch.device("cpu"))
    layout = KVLayout.of(model.spec, block_size=16, dtype="bfloat16")
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


def test_a_budget_below_one_context_clamps_the_context(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_toy_checkpoint(tmp_path, num_layers=2, context_length=160)
    loaded = load_runner(tmp_path, device="cpu", kv_memory_bytes=10 * 2048 - 1)
    assert (loaded.cache.num_blocks, loaded.spec.context_length) == (9, 9 * 16 + 1)
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "up to 145 tokens" in warning
    assert "context is 160" in warning


def test_warming_up_leaves_a_runner_and_cache_as_good_as_new(
    make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    folder = make_checkpoint("qwen3")
    fresh, warm = (
        load_runner(folder, device="cpu", num_blocks=20, kv_memory_bytes=0) for _ in range(2)
    )
    assert isinstance(warm.runner, TorchRunner)
    assert warm.runner.warm_up() > 0
    assert not warm.cache.tensor.any()
    assert generate(warm, [[1, 2, 3]], 5) == generate(fresh, [[1, 2, 3]], 5)


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_the_smallest_caches_are_warmed_up_too(
    make_checkpoint: Callable[..., Path], num_blocks: int
) -> None:
    folder = make_checkpoint("llama")
    loaded = load_runner(folder, device="cpu", num_blocks=num_blocks, kv_memory_bytes=0)
    assert isinstance(loaded.runner, TorchRunner)
    assert loaded.runner.warm_up() > 0


def test_graphs_that_do_not_fit_beside_the_cache_say_how_many_blocks_would(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path, num_layers=2, context_length=160)
    cache = load_runner(tmp_path, device="cpu", num_blocks=50, kv_memory_bytes=0).cache
    check_graph_memory(cache, 10_000, 10_000)
    with pytest.raises(DeviceMemoryError, match=r"50 KV blocks leave 1000 bytes.* at most 45 bl"):
        # A block of both layers has 2,048 bytes.
        check_graph_memory(cache, 1000 + 5 * 2048, 1000)


def test_a_step_that_does_not_fit_says_what_to_lower(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_runner(make_checkpoint("llama"), device="cpu", num_blocks=16, kv_memory_bytes=0)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Decoder, "forward", full)
    chunk = SequenceChunk(token_ids=[1] * 9, start=0, block_ids=[0], sampling=None)
    with pytest.raises(
        DeviceMemoryError, match=r"step of 9 tokens beside 16 KV blocks: no more; 14 .* lower kv_"
    ):
        loaded.runner.run([chunk])
