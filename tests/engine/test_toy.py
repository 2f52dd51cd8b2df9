"""The toy model: its oracle, and that it notices everything that can go wrong with a cache."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.toy_oracle import toy_next_token
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.toy import EOS_TOKEN_ID, VOCAB_SIZE, ToySpec
from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_engine.toy.runner import ToyRunner

Generate = Callable[..., list[list[SampledToken]]]


def _spec(loaded: LoadedModel) -> ToySpec:
    assert isinstance(loaded.spec, ToySpec)
    return loaded.spec


def _oracle(prompt: list[int], num_tokens: int, spec: ToySpec) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(toy_next_token(tokens, spec))
    return tokens[len(prompt) :]


@given(
    prompts=st.lists(
        st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=70), min_size=1, max_size=5
    ),
    data=st.data(),
)
def test_the_oracle_predicts_every_token_however_prompts_are_cut_and_batched(
    tmp_path_factory: pytest.TempPathFactory,
    generate: Generate,
    prompts: list[list[int]],
    data: st.DataObject,
) -> None:
    folder = write_toy_checkpoint(tmp_path_factory.getbasetemp() / "toy-oracle", num_layers=2)
    loaded = load_runner(folder, device="cpu", num_blocks=60, kv_memory_bytes=0)
    sizes = [data.draw(st.integers(1, len(prompt))) for prompt in prompts]
    texts = generate(loaded, prompts, 3, chunk_sizes=sizes)
    for prompt, text in zip(prompts, texts, strict=True):
        assert [token.token_id for token in text] == _oracle(prompt, 3, _spec(loaded))


@pytest.mark.parametrize("block_size", [1, 7, 16, 64])
def test_the_block_size_does_not_change_the_text(
    block_size: int, tmp_path: Path, generate: Generate
) -> None:
    folder = write_toy_checkpoint(tmp_path)
    loaded = load_runner(
        folder, device="cpu", num_blocks=500, kv_memory_bytes=0, block_size=block_size
    )
    prompt = list(b"How long is a piece of string?" * 5)
    (text,) = generate(loaded, [prompt], 10)
    assert [token.token_id for token in text] == _oracle(prompt, 10, _spec(loaded))


def _swap(cache: torch.Tensor, layer: int) -> None:
    cache[layer, [0, 1]] = cache[layer, [1, 0]]


def _exchange_keys_and_values(cache: torch.Tensor, layer: int) -> None:
    cache[layer, 2] = cache[layer, 2].flip(0)


DAMAGES: dict[str, Callable[[torch.Tensor, int], object]] = {
    "block-missing": lambda cache, layer: cache[layer, 1].zero_(),
    "keys-missing": lambda cache, layer: cache[layer, 1, 0].zero_(),
    "values-missing": lambda cache, layer: cache[layer, 3, 1].zero_(),
    "one-slot-missing": lambda cache, layer: cache[layer, 3, :, 0].zero_(),
    "blocks-swapped": _swap,
    "keys-are-values": _exchange_keys_and_values,
    "layer-of-another": lambda cache, layer: cache[layer].copy_(cache[layer - 1]),
    "heads-swapped": lambda cache, layer: cache[layer].copy_(cache[layer].flip(-2)),
    "one-number-off": lambda cache, layer: cache[layer, 2, 1, 5, 1, 3].add_(1),
}


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_any_damage_to_the_cache_changes_the_text(
    damage: Callable[[torch.Tensor, int], object], layer: int, toy: LoadedModel
) -> None:
    prompt = list(b"fifty tokens in four blocks, the last one with two")
    table = list(range(10))

    def decode(num_tokens: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(num_tokens):
            state = SamplingState(
                sampling=SamplingParameters(temperature=0.0), token_ids=tokens, num_prompt_tokens=50
            )
            start = len(tokens) - 1
            chunk = SequenceChunk(
                token_ids=tokens[start:], start=start, block_ids=table, sampling=state
            )
            (token,) = toy.runner.run([chunk])
            assert token is not None
            tokens = [*tokens, token.token_id]
        return tokens[50:]

    toy.runner.run([SequenceChunk(token_ids=prompt, start=0, block_ids=table, sampling=None)])
    whole = toy.cache.tensor.clone()
    right = decode(6)
    assert right == _oracle(prompt, 6, _spec(toy))
    toy.cache.tensor.copy_(whole)
    damage(toy.cache.tensor, layer)
    assert decode(6) != right


def test_sequences_do_not_leak_into_each_other_through_old_blocks(
    toy: LoadedModel, generate: Generate
) -> None:
    toy.cache.tensor.fill_(math.nan)
    prompts = [[1, 2, 3], list(range(47)), [7] * 16]
    texts = generate(toy, prompts, 20, chunk_sizes=[1, 9, 16])
    for prompt, text in zip(prompts, texts, strict=True):
        assert [token.token_id for token in text] == _oracle(prompt, 20, _spec(toy))


def test_toy_text_is_printable_and_never_ends(toy: LoadedModel, generate: Generate) -> None:
    (text,) = generate(toy, [[104, 105]], 300)
    assert all(32 <= token.token_id < 127 for token in text)
    assert len({token.token_id for token in text}) > 60


def test_a_toy_can_be_asked_to_end(tmp_path: Path, generate: Generate) -> None:
    folder = write_toy_checkpoint(tmp_path, eos_one_in=10)
    loaded = load_runner(folder, device="cpu", num_blocks=40, kv_memory_bytes=0)
    (text,) = generate(loaded, [[104, 105]], 300)
    assert 10 < sum(token.token_id == EOS_TOKEN_ID for token in text) < 60


def test_a_toy_samples_by_seed_and_reports_logprobs(toy: LoadedModel, generate: Generate) -> None:
    samplings = [
        SamplingParameters(seed=1),
        SamplingParameters(seed=2),
        SamplingParameters(temperature=0.0, top_logprobs=2),
    ]
    first = generate(toy, [[65]] * 3, 30, samplings=samplings)
    assert first == generate(toy, [[65]] * 3, 30, samplings=samplings)
    assert first[0] != first[1]
    assert [token.token_id for token in first[2]] == _oracle([65], 30, _spec(toy))
    for token in first[2]:
        assert token.logprob == pytest.approx(math.log(1 - math.exp(-1)))
        assert token.top_logprobs[0] == (token.token_id, token.logprob)


def test_a_slow_toy_takes_its_time_layer_by_layer(tmp_path: Path) -> None:
    folder = write_toy_checkpoint(
        tmp_path, num_layers=2, step_seconds=0.02, prefill_seconds_per_token=0.002
    )
    loaded = load_runner(folder, device="cpu", num_blocks=4, kv_memory_bytes=0)
    seconds: list[float] = []
    started_at = time.monotonic()
    chunk = SequenceChunk(token_ids=[1] * 20, start=0, block_ids=[0, 1], sampling=None)
    loaded.runner.run([chunk], on_layer=lambda _: seconds.append(time.monotonic() - started_at))
    assert seconds[0] >= 0.03
    assert seconds[1] >= 0.06


def test_an_asynchronous_toy_computes_steps_in_order_while_its_caller_goes_on(
    tmp_path: Path,
) -> None:
    folder = write_toy_checkpoint(tmp_path, step_seconds=0.02, asynchronous=True)
    loaded = load_runner(folder, device="cpu", num_blocks=4, kv_memory_bytes=0)
    chunk = SequenceChunk(token_ids=[1] * 20, start=0, block_ids=[0, 1], sampling=None)
    started_at = time.monotonic()
    first, second = loaded.runner.launch([chunk]), loaded.runner.launch([chunk])
    assert not first.is_ready
    assert not loaded.cache.tensor.any()
    assert second.tokens() == [None]
    assert time.monotonic() - started_at >= 0.04
    assert first.is_ready
    layers: list[int] = []
    third = loaded.runner.launch([chunk], layers.append)
    assert layers == []
    third.tokens()
    assert layers == [0, 1, 2, 3]


def test_what_breaks_an_asynchronous_step_is_raised_where_it_is_read(tmp_path: Path) -> None:
    folder = write_toy_checkpoint(tmp_path, asynchronous=True)
    loaded = load_runner(folder, device="cpu", num_blocks=4, kv_memory_bytes=0)
    loaded.cache.tensor = torch.zeros(1)
    chunk = SequenceChunk(token_ids=[1], start=0, block_ids=[0], sampling=None)
    pending = loaded.runner.launch([chunk])
    with pytest.raises(IndexError):
        pending.tokens()


def test_the_tokenizer_has_one_token_per_byte(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "naïve 長い\n\x00"
    encoded = tokenizer.encode(f"{text}<|end|>").ids
    assert encoded == [*text.encode(), EOS_TOKEN_ID]
    assert tokenizer.decode(encoded, skip_special_tokens=True) == text
    assert tokenizer.get_vocab_size() == VOCAB_SIZE


def test_a_toy_refuses_a_cache_of_another_shape(toy: LoadedModel) -> None:
    layout = KVLayout.of(_spec(toy), block_size=16, dtype="bfloat16")
    cache = KVCache.allocate(layout, 4, torch.device("cpu"))
    with pytest.raises(CacheSizeError, match="the toy model needs KVLayout"):
        ToyRunner(cache, _spec(toy))


def test_a_damaged_toy_config_is_a_checkpoint_error(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_one_in": -1}))
    with pytest.raises(CheckpointError, match="eos_one_in: expected an integer >= 0, got -1"):
        load_runner(tmp_path, device="cpu", num_blocks=1, kv_memory_bytes=0)
