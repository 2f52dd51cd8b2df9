"""The sampler against definitions written the slow way, and its independence of the batch."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState, sample

VOCAB_SIZE = 40


def _state(
    sampling: SamplingParameters, tokens: Sequence[int] = (), prompt: int = 0
) -> SamplingState:
    return SamplingState(sampling=sampling, token_ids=tokens, num_prompt_tokens=prompt)


def _tokens(logits: torch.Tensor, states: list[SamplingState]) -> list[int]:
    return [token.token_id for token in sample(logits, states)]


def _draw_many(logits: list[float], sampling: SamplingParameters, count: int) -> Counter[int]:
    """Samples of one distribution at `count` positions."""
    states = [_state(sampling, range(position)) for position in range(count)]
    return Counter(_tokens(torch.tensor([logits]).expand(count, -1), states))


samplings = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 39, 500]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.7, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 2**64 - 1),
    min_tokens=st.sampled_from([0, 5, 20]),
    logit_bias=st.dictionaries(
        st.integers(0, VOCAB_SIZE + 3), st.sampled_from([-100.0, -1.5, 0.5, 100.0]), max_size=4
    ),
    top_logprobs=st.sampled_from([None, 0, 3]),
    # Ids beyond the vocabulary, which no tokenizer makes, are no tokens.
    stop_token_ids=st.frozensets(st.integers(0, VOCAB_SIZE + 3), max_size=4),
)
sequences = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30)
# Coarse logits make ties, which half precision makes in earnest.
logit_rows = st.lists(
    st.integers(-8, 8).map(lambda value: value / 2), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE
)
rows = st.tuples(logit_rows, samplings, sequences)


@pytest.mark.slow
@given(batch=st.lists(rows, min_size=1, max_size=6), data=st.data())
def test_a_row_samples_the_same_token_alone_as_in_any_batch(
    batch: list[tuple[list[float], SamplingParameters, list[int]]], data: st.DataObject
) -> None:
    states = [_state(sampling, tokens, 1) for _, sampling, tokens in batch]
    together = sample(torch.tensor([logits for logits, _, _ in batch]), states)
    order = data.draw(st.permutations(range(len(batch))))
    shuffled = sample(
        torch.tensor([batch[row][0] for row in order]), [states[row] for row in order]
    )
    for place, row in enumerate(order):
        (alone,) = sample(torch.tensor([batch[row][0]]), [states[row]])
        _assert_same(alone, together[row])
        _assert_same(alone, shuffled[place])


def _assert_same(first: SampledToken, second: SampledToken) -> None:
    assert first.token_id == second.token_id
    assert (first.logprob is None) == (second.logprob is None)
    if first.logprob is not None and second.logprob is not None:
        assert first.logprob == pytest.approx(second.logprob, abs=1e-5)
    values = [value for _, value in first.top_logprobs]
    assert values == pytest.approx([value for _, value in second.top_logprobs], abs=1e-5)


@given(logits=logit_rows, sampling=samplings, tokens=sequences)
def test_only_tokens_the_filters_let_through_are_sampled(
    logits: list[float], sampling: SamplingParameters, tokens: list[int]
) -> None:
    scores = _adjust(logits, sampling, tokens)
    if sampling.temperature == 0.0:
        allowed = {int(scores.argmax())}
    else:
        allowed = _support(scores / sampling.temperature, sampling)
    seeds = range(20)
    states = [_state(replace(sampling, seed=seed, top_logprobs=None), tokens, 1) for seed in seeds]
    assert set(_tokens(torch.tensor([logits] * len(seeds)), states)) <= allowed


@given(logits=logit_rows, sampling=samplings)
@settings(max_examples=15)
def test_every_token_the_filters_let_through_is_sampled_at_times(
    logits: list[float], sampling: SamplingParameters
) -> None:
    # At this temperature the least likely of the support still has a chance of more than 1 in 100.
    hot = SamplingParameters(
        temperature=8.0, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p
    )
    support = _support(torch.tensor(logits) / 8.0, hot)
    assert set(_draw_many(logits, hot, 2000)) == support


def _adjust(logits: list[float], sampling: SamplingParameters, tokens: list[int]) -> torch.Tensor:
    """Biases, penalties and min_tokens the slow way, for a prompt of one token."""
    adjusted = [
        logit + sampling.logit_bias.get(token_id, 0.0) for token_id, logit in enumerate(logits)
    ]
    for token in set(tokens):
        if sampling.repetition_penalty != 1.0:
            up = adjusted[token] < 0
            factor = sampling.repetition_penalty if up else 1 / sampling.repetition_penalty
            adjusted[token] *= factor
    for token, count in Counter(tokens[1:]).items():
        adjusted[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    if len(tokens) - 1 < sampling.min_tokens:
        for token in range(VOCAB_SIZE):
            adjusted[token] = -math.inf if token in sampling.stop_token_ids else adjusted[token]
    return torch.tensor(adjusted)


def _support(scores: torch.Tensor, sampling: SamplingParameters) -> set[int]:
    """Tokens left by top-k, top-p and min-p, ties at a threshold included."""
    ranked = sorted(scores.tolist(), reverse=True)
    kept = ranked[: sampling.top_k or len(ranked)]
    mass = sum(math.exp(score) for score in kept)
    reached, least = 0.0, kept[0]
    for score in kept:
        if reached >= sampling.top_p - 1e-6 and sampling.top_p < 1.0:
            break
        reached += math.exp(score) / mass
        least = score
    floor = ranked[0] + math.log(sampling.min_p) if sampling.min_p else -math.inf
    return {
        token for token, score in enumerate(scores.tolist()) if score >= max(least, floor) - 1e-5
    }


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("narrowed", [{}, {"top_k": 6}], ids=["whole", "top-k"])
def test_samples_follow_the_softmax_of_logits_over_temperature(
    temperature: float, narrowed: dict[str, Any]
) -> None:
    logits, count = [0.0, 1.0, 2.0, -1.0, 0.5, 1.5], 10_000
    sampling = SamplingParameters(temperature=temperature, seed=11, **narrowed)
    drawn = _draw_many(logits, sampling, count)
    expected = count * (torch.tensor(logits) / temperature).softmax(-1)
    got = torch.tensor([float(drawn[token]) for token in range(len(logits))])
    chi_square = ((got - expected) ** 2 / expected).sum().item()
    assert chi_square < 20.5  # 0.1 % level at 5 degrees of freedom


def test_neighbouring_positions_and_seeds_draw_independently() -> None:
    states = [
        _state(SamplingParameters(seed=seed), range(n)) for seed in range(40) for n in range(40)
    ]
    heads = torch.tensor(_tokens(torch.zeros(1600, 2), states)).view(40, 40).double()
    for first, second in ((heads[1:], heads[:-1]), (heads[:, 1:], heads[:, :-1])):
        correlation = torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1]
        assert abs(correlation.item()) < 3.3 / math.sqrt(1560)


def test_all_64_bits_of_a_seed_count() -> None:
    texts = [
        _tokens(
            torch.zeros(20, 50),
            [_state(SamplingParameters(seed=seed), range(n)) for n in range(20)],
        )
        for seed in (0, 2**32, 2**63, 2**64 - 1, 2**63 - 1)
    ]
    assert len({tuple(text) for text in texts}) == 5


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    raw = logits.log_softmax(-1)[0].tolist()
    sampling = SamplingParameters(temperature=0.0, repetition_penalty=100.0, top_logprobs=2)
    (token,) = sample(logits, [_state(sampling, [1, 1, 2], 1)])
    assert token.token_id == 0
    assert token.logprob == pytest.approx(raw[0])
    assert [token_id for token_id, _ in token.top_logprobs] == [1, 2]
    assert [value for _, value in token.top_logprobs] == pytest.approx([raw[1], raw[2]])


def test_logprobs_come_only_where_they_were_asked_for() -> None:
    asked = [None, 0, 1, 99]
    states = [_state(SamplingParameters(temperature=0.0, top_logprobs=count)) for count in asked]
    tokens = sample(torch.arange(5.0).repeat(4, 1), states)
    assert [token.logprob is not None for token in tokens] == [False, True, True, True]
    assert [len(token.top_logprobs) for token in tokens] == [0, 0, 1, 5]


def test_repetition_counts_the_prompt_but_presence_and_frequency_do_not() -> None:
    logits = torch.tensor([[2.0, 1.9, 1.8, 1.7]] * 4)
    tokens = [0, 0, 1, 2, 2]
    states = [
        _state(SamplingParameters(temperature=0.0, repetition_penalty=1.5), tokens, 2),
        _state(SamplingParameters(temperature=0.0, presence_penalty=0.4), tokens, 2),
        _state(SamplingParameters(temperature=0.0, frequency_penalty=0.15), [0, 0, 0, 1], 2),
        _state(SamplingParameters(temperature=0.0, frequency_penalty=0.15), [1, 2, 0, 0], 2),
    ]
    assert _tokens(logits, states) == [3, 0, 0, 1]


def test_the_logits_are_left_as_they_were() -> None:
    logits = torch.randn(2, VOCAB_SIZE)
    before = logits.clone()
    sample(
        logits,
        [_state(SamplingParameters(presence_penalty=1.0, top_k=3, seed=5), [1, 2, 3], 1)] * 2,
    )
    assert torch.equal(logits, before)
