"""A model on several ranks computes what it does on one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine.ranks import ranks_in_threads
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.kv.shards import HeadShard
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState

Generate = Callable[..., list[list[SampledToken]]]
NUM_BLOCKS = 60
ALL_LOGPROBS = SamplingParameters(temperature=0.0, top_logprobs=400)
PROMPTS = [[(7 * i + 13 * n + i * i) % 320 for i in range(n)] for n in (1, 40, 130)]
# KV heads: 2 cut in two, 2 and 1 held by several ranks each, 4 cut in four. 321 and 323 tokens of
# vocabulary leave the last rank fewer.
CASES = [
    ("llama-gqa-tied", 2, 321, False),
    ("llama-biases", 4, 320, False),
    ("llama-mqa-head-dim", 2, 320, False),
    ("llama", 4, 323, False),
    ("mistral-window", 2, 320, False),
    ("qwen3-biases-layer-types", 4, 320, False),
    ("qwen3_moe-some-dense", 2, 320, False),
    ("qwen3_moe-some-dense", 2, 320, True),
    ("mixtral", 4, 320, False),
    ("mixtral", 4, 320, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "size", "vocabulary", "expert_parallel"), CASES)
def test_ranks_sample_the_tokens_of_one_from_its_logits(
    variant: str,
    size: int,
    vocabulary: int,
    expert_parallel: bool,
    make_checkpoint: Callable[..., Path],
    generate: Generate,
) -> None:
    folder = make_checkpoint(variant, vocab_size=vocabulary)
    alone = load_runner(folder, device="cpu", num_blocks=NUM_BLOCKS, kv_memory_bytes=0)
    samplings = [ALL_LOGPROBS] * len(PROMPTS)
    settings = {"samplings": samplings, "chunk_sizes": [1, 16, 37]}
    expected = generate(alone, PROMPTS, 6, **settings)
    with ranks_in_threads(folder, size, NUM_BLOCKS, expert_parallel=expert_parallel) as ranks:
        loaded = SimpleNamespace(cache=ranks.cache, runner=ranks)
        got = generate(loaded, PROMPTS, 6, **settings)
        whole = alone.cache.tensor
        for rank, cache in enumerate(ranks.caches):
            heads = HeadShard(rank=rank, size=size, num_kv_heads=whole.shape[4])
            part = whole[..., heads.first_head : heads.first_head + heads.num_heads, :]
            torch.testing.assert_close(cache.tensor, part, atol=1e-4, rtol=0)
    for ours, theirs in zip(got, expected, strict=True):
        assert [token.token_id for token in ours] == [token.token_id for token in theirs]
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(_logprobs(a), _logprobs(b), atol=1e-5, rtol=1e-5)
    assert len({token.token_id for text in expected for token in text}) > 4, "degenerate text"


def _logprobs(token: SampledToken) -> torch.Tensor:
    """Of the whole vocabulary, by token id."""
    return torch.tensor([logprob for _, logprob in sorted(token.top_logprobs)])


@pytest.mark.slow
def test_a_layer_is_reported_stored_once_all_ranks_stored_it(
    make_checkpoint: Callable[..., Path],
) -> None:
    """Nothing is sampled, so that the last layer has nothing to attend to or to sum."""
    with ranks_in_threads(make_checkpoint("llama-biases"), 4, 12) as ranks:
        seen: list[int] = []

        def saw(layer: int) -> None:
            seen.append(layer)
            for cache in ranks.caches:
                assert cache.tensor[layer, [5, 9]].flatten(1).any(-1).all()

        for _ in range(4):
            seen.clear()
            for cache in ranks.caches:
                cache.tensor.zero_()
            chunk = SequenceChunk(
                token_ids=PROMPTS[1][:20], start=0, block_ids=[5, 9], sampling=None
            )
            assert ranks.run([chunk], saw) == [None]
            assert seen == [0, 1, 2]


def test_rows_follow_tokens_that_only_rank_0_sampled(
    make_checkpoint: Callable[..., Path],
) -> None:
    folder = make_checkpoint("qwen2")
    alone = load_runner(folder, device="cpu", num_blocks=NUM_BLOCKS, kv_memory_bytes=0)
    states = [
        SamplingState(
            sampling=SamplingParameters(
                temperature=1.5,
                seed=number,
                # For the prefill's token, but not for the one that follows it.
                min_tokens=1,
                stop_token_ids=frozenset(range(0, 320, 2)),
                logit_bias={31: 2.0, 57: -100.0},
            ),
            token_ids=prompt,
            num_prompt_tokens=len(prompt),
        )
        for number, prompt in enumerate(PROMPTS)
    ]
    tables = [range(20 * row, 20 * row + 20) for row in range(len(states))]
    prefill = [
        SequenceChunk(token_ids=state.token_ids, start=0, block_ids=table, sampling=state)
        for state, table in zip(states, tables, strict=True)
    ]
    # In another order, as when a row between them has ended.
    following = [
        SequenceChunk(
            token_ids=(0,),
            start=len(states[row].token_ids),
            block_ids=tables[row],
            sampling=states[row],
            follows=row,
        )
        for row in (2, 0)
    ]
    expected = [alone.runner.run(prefill), alone.runner.run(following)]
    assert all(token is not None and token.token_id % 2 for token in expected[0])
    with ranks_in_threads(folder, 2, NUM_BLOCKS) as ranks:
        assert [ranks.run(prefill), ranks.run(following)] == expected
        written = ranks.caches[1].tensor[..., 0, :] - alone.cache.tensor[..., 1, :]
        assert written.abs().max() < 1e-4


@pytest.fixture(scope="module")
def spec(make_checkpoint: Callable[..., Path]) -> DecoderSpec:
    return read_spec(make_checkpoint("llama"))


@given(
    size=st.integers(1, 16),
    kv_heads=st.integers(1, 16),
    group=st.integers(1, 8),
    vocabulary=st.integers(1, 100),
)
def test_shares_cover_the_model_and_query_heads_find_their_kv_heads(
    spec: DecoderSpec, size: int, kv_heads: int, group: int, vocabulary: int
) -> None:
    whole = replace(
        spec,
        num_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        intermediate_size=4 * size,
        vocab_size=vocabulary,
    )
    if kv_heads * group % size or (kv_heads % size and size % kv_heads):
        with pytest.raises(UnsupportedModel, match=f"tensor_parallel_size {size}"):
            ModelShard(whole=whole, size=size)
        return
    shards = [ModelShard(whole=whole, rank=rank, size=size) for rank in range(size)]
    for ranges, count in (
        ([shard.query_heads for shard in shards], whole.num_heads),
        ([shard.neurons for shard in shards], whole.intermediate_size),
        ([shard.vocabulary for shard in shards], vocabulary),
    ):
        assert [index for each in ranges for index in each] == list(range(count))
    for shard in shards:
        part = shard.part
        for number, head in enumerate(shard.query_heads):
            own = shard.kv_heads[number // (part.num_heads // part.num_kv_heads)]
            assert own == head // group


def test_an_intermediate_size_that_cannot_be_shared_is_refused(spec: DecoderSpec) -> None:
    with pytest.raises(UnsupportedModel, match=r"intermediate_size 111 is no multiple of .* 2"):
        ModelShard(whole=replace(spec, intermediate_size=111), size=2)
