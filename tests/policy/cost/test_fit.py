"""The fitted cost model: planted coefficients come back, and bad data changes nothing."""

from collections.abc import Iterator
from dataclasses import asdict, astuple, replace
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_policy.cost.fit import CostFit, StepSample
from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS

# Near the published transition: a boundary of 264 tokens.
PLANTED = CostModel(
    step_seconds=0.008,
    token_seconds=3e-5,
    attention_seconds=1e-9,
    history_seconds=1e-7,
    decode_request_seconds=1e-4,
    decode_context_seconds=1e-8,
)


def step(cost: CostModel, chunks: list[tuple[int, int]], contexts: list[int]) -> StepSample:
    """Chunks are pairs of new and cached tokens."""
    sample = StepSample(
        seconds=1.0,
        new_tokens=sum(new for new, _ in chunks),
        attention=sum(new * (new + 2 * history) for new, history in chunks),
        history=sum(history for _, history in chunks),
        decode_requests=len(contexts),
        decode_context=sum(contexts),
    )
    seconds = sum(cost.chunk_seconds(*chunk) for chunk in chunks)
    return replace(sample, seconds=seconds + cost.decode_step_seconds(len(contexts), sum(contexts)))


def prompts(
    cost: CostModel,
    seed: int = 0,
    *,
    tokens: tuple[int, int] = (1, 8000),
    noise: float = 0.03,
    outliers: float = 0.0,
) -> Iterator[StepSample]:
    """Steps of one to three prompts, every other one with a history."""
    random = Random(seed)
    while True:
        chunks = [
            (
                min(max(int(random.lognormvariate(5, 1.5)), tokens[0]), tokens[1]),
                random.randrange(4000) * random.randrange(2),
            )
            for _ in range(random.randrange(1, 4))
        ]
        sample = step(cost, chunks, [])
        factor = 100.0 if random.random() < outliers else max(random.gauss(1.0, noise), 0.5)
        yield replace(sample, seconds=sample.seconds * factor)


def fitted(samples: Iterator[StepSample], count: int = 1000) -> CostFit:
    fit = CostFit(window=count, refit_every=count)
    for sample in islice(samples, count):
        fit.observe(sample)
    return fit


PLANTS = st.builds(
    CostModel,
    step_seconds=st.floats(0.005, 0.02),
    token_seconds=st.floats(2e-5, 1e-4),
    attention_seconds=st.floats(5e-9, 2e-8),
    history_seconds=st.floats(1e-6, 2e-6),
    decode_request_seconds=st.just(0.0),
    decode_context_seconds=st.just(0.0),
)


@settings(max_examples=10)
@given(PLANTS, st.integers(0, 1000))
def test_planted_coefficients_and_their_boundary_come_back_from_noisy_steps(
    planted: CostModel, seed: int
) -> None:
    fit = fitted(prompts(planted, seed, noise=0.02, outliers=0.01))
    assert fit.is_fitted
    assert astuple(fit.model)[:4] == pytest.approx(astuple(planted)[:4], rel=0.1)
    boundary = min(max(planted.boundary(), 64), 1024)
    if abs(boundary - DEFAULT_SHORT_TOKENS) > 0.2 * DEFAULT_SHORT_TOKENS:
        # A quotient of two of them: their errors add up.
        assert fit.short_tokens == pytest.approx(boundary, rel=0.2)


def test_all_six_terms_are_distinguished_in_mixed_steps() -> None:
    random = Random(3)
    fit = CostFit(refit_every=1000)
    for number in range(1000):
        chunks = [(random.randrange(1, 2000), random.randrange(4000))] * (number % 2)
        contexts = [random.randrange(10, 20_000) for _ in range(random.randrange(64))]
        sample = step(PLANTED, chunks, contexts)
        fit.observe(replace(sample, seconds=sample.seconds * random.gauss(1.0, 0.003)))
    assert astuple(fit.model) == pytest.approx(astuple(PLANTED), rel=0.1)


def scaled_by(model: CostModel) -> float:
    """By how much it is the prior, in the terms of prompts and of decodes."""
    factor = model.decode_request_seconds / PRIOR.decode_request_seconds
    assert model.decode_context_seconds == factor * PRIOR.decode_context_seconds
    return factor


def test_terms_never_seen_keep_the_scaled_priors_coefficients() -> None:
    fit = fitted(prompts(PLANTED))
    assert 0.5 < scaled_by(fit.model) < 2
    assert fit.measured is not None
    assert fit.measured.decode_request_seconds == 0.0
    random = Random(1)
    decoding = CostFit()
    for _ in range(200):
        contexts = [random.randrange(10, 20_000) for _ in range(random.randrange(1, 64))]
        decoding.observe(step(PLANTED, [], contexts))
    assert decoding.is_fitted
    assert decoding.measured is not None
    assert astuple(decoding.measured) == (
        pytest.approx(PLANTED.step_seconds),
        *(0.0, 0.0, 0.0),
        pytest.approx(PLANTED.decode_request_seconds),
        pytest.approx(PLANTED.decode_context_seconds),
    )
    assert decoding.model.token_seconds > 0
    assert decoding.short_tokens == DEFAULT_SHORT_TOKENS  # no prompt, no boundary


def test_a_term_seen_a_few_times_counts_as_never_seen() -> None:
    fit = CostFit()
    random = Random(2)
    planted = replace(PLANTED, decode_request_seconds=9e-4)
    for number, sample in enumerate(islice(prompts(planted), 200)):
        contexts = [1000] * random.randrange(1, 60)
        fit.observe(sample if number % 20 else step(planted, [], contexts))
    assert fit.is_fitted
    assert fit.measured is not None
    assert fit.measured.decode_request_seconds == 0.0
    assert fit.model.step_seconds == pytest.approx(PLANTED.step_seconds, rel=0.05)


@pytest.mark.parametrize("tokens", [(150, 160), (128, 192), (500, 500)], ids=str)
def test_prompts_of_nearly_one_length_tell_how_long_they_take_and_nothing_else(
    tokens: tuple[int, int],
) -> None:
    fit = CostFit()
    random = Random(0)
    for _ in range(1000):
        sample = step(PLANTED, [(random.randint(*tokens), 0)], [])
        fit.observe(replace(sample, seconds=sample.seconds * random.gauss(1.0, 0.05)))
    assert (fit.measured, fit.short_tokens) == (None, DEFAULT_SHORT_TOKENS)
    middle = sum(tokens) // 2
    expected = PLANTED.prefill_seconds(middle)
    assert fit.model.prefill_seconds(middle) == pytest.approx(expected, rel=0.2)


def test_a_few_steps_tell_how_fast_a_worker_is() -> None:
    """A hundred times slower than the prior: steps of the first second are not planned by that."""
    slow = CostModel(**{name: 100 * value for name, value in asdict(PLANTED).items()})
    fit = CostFit()
    for number, sample in enumerate(islice(prompts(slow, outliers=0.1), 40)):
        fit.observe(sample)
        if number >= 4:
            expected = slow.prefill_seconds(300)
            assert expected / 3 < fit.model.prefill_seconds(300) < 3 * expected
    assert not fit.is_fitted


def test_a_model_fitted_before_outlasts_steps_that_tell_nothing() -> None:
    fit = fitted(prompts(PLANTED))
    before = fit.model
    for _ in range(2000):
        assert not fit.observe(step(PLANTED, [(500, 0)], []))
    assert fit.model == before
    assert fit.is_fitted


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(
            st.floats(1e-5, 1e3), st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)))
        ),
        min_size=16,
        max_size=60,
    )
)
def test_coefficients_are_never_negative_whatever_is_observed(
    steps: list[tuple[float, list[tuple[int, int]]]],
) -> None:
    fit = CostFit(window=64, refit_every=16)
    for seconds, chunks in steps:
        fit.observe(replace(step(PLANTED, chunks, []), seconds=seconds))
    assert min(astuple(fit.model)) >= 0.0
    assert 64 <= fit.short_tokens <= 1024


def test_one_step_in_a_hundred_that_takes_a_hundred_times_as_long_is_ignored() -> None:
    clean = fitted(prompts(PLANTED, 5))
    disturbed = fitted(prompts(PLANTED, 5, outliers=0.01))
    for tokens in (1, 64, 256, 1024, 8000):
        assert disturbed.model.prefill_seconds(tokens) == pytest.approx(
            clean.model.prefill_seconds(tokens), rel=0.03
        )


def test_steps_far_too_fast_are_ignored_too() -> None:
    fit = CostFit(window=1000, refit_every=1000)
    for number, sample in enumerate(islice(prompts(PLANTED), 1000)):
        fit.observe(replace(sample, seconds=sample.seconds * (0.3 if number % 50 == 0 else 1.0)))
    assert fit.model.prefill_seconds(256) == pytest.approx(PLANTED.prefill_seconds(256), rel=0.05)


def test_a_model_in_use_changes_only_when_a_prediction_does() -> None:
    fit = CostFit(window=400, refit_every=200)
    samples = prompts(PLANTED)
    changes = [fit.observe(sample) for sample in islice(samples, 2000)]
    assert [index for index, changed in enumerate(changes) if changed] == [49, 99, 199]
    twice_as_slow = CostModel(**{name: 2 * value for name, value in asdict(PLANTED).items()})
    changes = [fit.observe(sample) for sample in islice(prompts(twice_as_slow), 1000)]
    assert any(changes[:400])
    assert fit.model.prefill_seconds(256) == pytest.approx(
        twice_as_slow.prefill_seconds(256), rel=0.1
    )


@pytest.mark.parametrize(
    ("step_seconds", "short_tokens"),
    [
        pytest.param(0.0084, DEFAULT_SHORT_TOKENS, id="within 10 %: 274"),
        pytest.param(0.012, pytest.approx(394, rel=0.03), id="beyond"),
        pytest.param(0.0001, 64, id="clipped below"),
        pytest.param(0.5, 1024, id="clipped above"),
    ],
)
def test_the_boundary_is_clipped_and_moves_only_when_it_differs(
    step_seconds: float, short_tokens: int
) -> None:
    planted = replace(PLANTED, step_seconds=step_seconds)
    assert fitted(prompts(planted, noise=0.01)).short_tokens == short_tokens


def test_a_boundary_that_moves_changes_the_model_even_where_no_prediction_does() -> None:
    before = replace(PLANTED, step_seconds=0.012, attention_seconds=0.0)
    after = replace(before, step_seconds=0.012 * 1.08, token_seconds=3e-5 * 0.93)
    fit = CostFit(window=200, refit_every=200)
    for sample in islice(prompts(before, noise=0.002), 200):
        fit.observe(sample)
    assert fit.short_tokens == pytest.approx(before.boundary(), rel=0.03)
    for tokens in (1, 300, 8000):
        assert after.prefill_seconds(tokens) == pytest.approx(
            before.prefill_seconds(tokens), rel=0.09
        )
    assert any(fit.observe(sample) for sample in islice(prompts(after, 1, noise=0.002), 200))
    assert fit.short_tokens == pytest.approx(after.boundary(), rel=0.03)


def test_a_fit_waits_for_its_number_of_samples_and_remembers_a_window_of_them() -> None:
    fit = CostFit(window=300, refit_every=200)
    samples = prompts(PLANTED)
    changes = [fit.observe(sample) for sample in islice(samples, 49)]
    assert not any(changes)
    assert (fit.num_samples, fit.is_fitted) == (49, False)
    assert fit.observe(next(samples))
    for sample in islice(samples, 500):
        fit.observe(sample)
    assert fit.num_samples == 300


def test_a_step_that_took_no_time_is_left_out() -> None:
    fit = CostFit()
    for seconds in (0.0, -1.0, float("inf"), float("nan")):
        assert not fit.observe(StepSample(seconds=seconds))
    assert fit.num_samples == 0


def test_the_same_steps_give_the_same_model() -> None:
    assert fitted(prompts(PLANTED, 9)).model == fitted(prompts(PLANTED, 9)).model
