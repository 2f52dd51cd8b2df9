"""The sampler at the limits of float32, against float64: what it chooses is what arithmetic without
limits would choose, and where nothing can be chosen it says so."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_engine.runner.sampler import NO_TOKEN, SamplingParameters, SamplingState, sample
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.sampling_parameters import SAMPLING_PARAMETERS

VOCAB_SIZE = 24
TINY = (5e-324, 1e-45, 1.4e-45, 1e-39, 1e-38, 1.2e-38, 1e-30, 1e-10, 0.99e-5)
EDGES = (*TINY, 1e-5, 1e-3, 0.5, 1.0, 100.0)


def chosen(logits: Sequence[float], sampling: SamplingParameters, tokens: Sequence[int]) -> int:
    state = SamplingState(sampling=sampling, token_ids=tokens, num_prompt_tokens=1)
    return sample(torch.tensor([logits], dtype=torch.float32), [state])[0].token_id


def allowed(
    logits: Sequence[float], sampling: SamplingParameters, tokens: Sequence[int]
) -> set[int]:
    """Tokens that float64 lets through, by a margin for what float32 rounds."""
    values = [float(torch.tensor(logit, dtype=torch.float32)) for logit in logits]
    for token, bias in sampling.logit_bias.items():
        values[token] += bias
    for token in set(tokens):
        up = values[token] < 0
        values[token] *= sampling.repetition_penalty if up else 1 / sampling.repetition_penalty
    for token in set(tokens[1:]):
        values[token] -= tokens[1:].count(token) * sampling.frequency_penalty
        values[token] -= sampling.presence_penalty
    best = max(values)
    rounding = 1e-5 * max(map(abs, values)) + 1e-30
    if sampling.temperature < 1e-5:
        return {token for token, value in enumerate(values) if value >= best - rounding}
    # The noise lies in (-4, 23): what is further behind the best than 27 is never drawn.
    scores = [(value - best) / sampling.temperature for value in values]
    slack = rounding / sampling.temperature + 1e-3
    least = max(-27.0, math.log(sampling.min_p) if sampling.min_p else -math.inf) - slack
    kept = sorted((score for score in scores if score >= least), reverse=True)
    if sampling.top_k:
        least = max(least, kept[min(sampling.top_k, len(kept)) - 1] - slack)
    weights = [math.exp(score) for score in sorted(scores, reverse=True)]
    mass, total, last = 0.0, sum(weights), 0.0
    for score, weight in zip(sorted(scores, reverse=True), weights, strict=True):
        if mass >= sampling.top_p * total * (1 + 1e-5) + 1e-6 * total:
            least = max(least, last - slack)
            break
        mass, last = mass + weight, score
    return {token for token, score in enumerate(scores) if score >= least}


samplings = st.builds(
    SamplingParameters,
    temperature=st.sampled_from(EDGES),
    top_k=st.sampled_from([0, 1, 5]),
    min_p=st.sampled_from([0.0, 5e-324, 1e-45, 1e-38, 1e-3, 1.0]),
    top_p=st.sampled_from([5e-324, 1e-45, 1e-38, 1e-3, 0.5, 1 - 1e-9, 1.0]),
    repetition_penalty=st.sampled_from([0.001, 0.5, 1.0, 1000.0]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 5e-324, 1e-45, 2.0]),
    frequency_penalty=st.sampled_from([-2.0, 0.0, 1e-45, 2.0]),
    logit_bias=st.dictionaries(
        st.integers(0, VOCAB_SIZE - 1), st.sampled_from([-100.0, 1e-45, 100.0]), max_size=3
    ),
    seed=st.integers(0, 2**64 - 1),
)
magnitudes = st.sampled_from([1e-45, 1e-38, 1e-6, 1.0, 30.0, 1e4])
rows = st.tuples(
    magnitudes, st.lists(st.floats(-1, 1), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE)
).map(lambda row: [row[0] * value for value in row[1]])


@given(rows, samplings, st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=9))
def test_a_token_is_one_that_float64_lets_through(
    logits: list[float], sampling: SamplingParameters, tokens: list[int]
) -> None:
    token = chosen(logits, sampling, tokens)
    assert token in allowed(logits, sampling, tokens)


@pytest.mark.parametrize("temperature", TINY)
def test_almost_no_temperature_is_greedy(temperature: float) -> None:
    logits = [0.0, 1.0, 3.0, 2.0, -5.0] * 3
    assert chosen(logits, SamplingParameters(temperature=temperature, seed=7), [1]) == 2
    assert SamplingParameters(temperature=temperature).takes_best


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("narrow", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}])
@pytest.mark.parametrize(
    "logits",
    [
        pytest.param([-math.inf] * 8, id="nothing allowed"),
        pytest.param([math.nan] * 8, id="all NaN"),
        pytest.param([1.0, 2.0, math.nan, 4.0], id="one NaN"),
        pytest.param([1.0, -math.nan, 2.0, 4.0], id="one negative NaN"),
        pytest.param([1.0, math.inf, 3.0, 4.0], id="infinite"),
    ],
)
def test_where_nothing_can_be_chosen_no_token_is(
    logits: list[float], temperature: float, narrow: dict[str, float]
) -> None:
    sampling = SamplingParameters(temperature=temperature, seed=3, **narrow)  # type: ignore[arg-type]
    assert chosen(logits, sampling, [0]) == NO_TOKEN


def test_rows_beside_one_without_a_token_are_as_they_would_be_alone() -> None:
    states = [
        SamplingState(sampling=sampling, token_ids=[0], num_prompt_tokens=1)
        for sampling in (
            SamplingParameters(temperature=0.0),
            SamplingParameters(temperature=0.0, top_logprobs=2),
            SamplingParameters(temperature=0.9, seed=1, top_k=2),
        )
    ]
    good, bad = torch.tensor([1.0, 5.0, 2.0, 0.0]), torch.full([4], math.nan)
    tokens = sample(torch.stack((bad, good, good)), states)
    assert [token.token_id for token in tokens[:2]] == [NO_TOKEN, 1]
    assert [token_id for token_id, _ in tokens[1].top_logprobs] == [1, 2]
    (alone,) = sample(good.unsqueeze(0), states[2:])
    assert tokens[2] == alone


def test_stop_tokens_that_are_the_whole_vocabulary_leave_no_token() -> None:
    sampling = SamplingParameters(min_tokens=3, stop_token_ids=frozenset(range(4)))
    assert chosen([1.0, 2.0, 3.0, 4.0], sampling, [0]) == NO_TOKEN


@pytest.mark.parametrize("penalty", [5e-324, 1e-45, 1e-38, 1e-6, 1e6, 1e38, math.inf, math.nan])
def test_penalties_beyond_arithmetic_are_refused(penalty: float) -> None:
    with pytest.raises(InvalidRequest, match="repetition_penalty"):
        SAMPLING_PARAMETERS["repetition_penalty"].check("repetition_penalty", penalty)
