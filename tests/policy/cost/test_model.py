"""The cost model: where a prefill turns from memory-bound to compute-bound."""

from dataclasses import replace
from math import floor, isinf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS

PLANTED = CostModel(
    step_seconds=0.008,
    token_seconds=3e-5,
    attention_seconds=1e-9,
    history_seconds=1e-7,
    decode_request_seconds=1e-4,
    decode_context_seconds=1e-8,
)


@pytest.mark.parametrize(
    ("history", "expected"),
    [pytest.param(0, 263.6, id="first turn"), pytest.param(100_000, 78.2, id="long history")],
)
def test_the_boundary_is_where_computing_takes_as_long_as_the_rest(
    history: int, expected: float
) -> None:
    boundary = PLANTED.boundary(history)
    assert boundary == pytest.approx(expected, rel=0.01)
    computing = PLANTED.token_seconds * boundary + PLANTED.attention_seconds * boundary * (
        boundary + 2 * history
    )
    assert computing == pytest.approx(PLANTED.step_seconds + PLANTED.history_seconds * history)


def test_without_any_cost_of_computing_every_prompt_is_short() -> None:
    assert replace(PRIOR, token_seconds=0.0).boundary() == float("inf")
    assert PRIOR.boundary() == pytest.approx(DEFAULT_SHORT_TOKENS)


@given(
    seconds=st.floats(0, 10),
    history=st.integers(0, 100_000),
    token=st.just(0.0) | st.floats(1e-9, 1e-3),
    attention=st.just(0.0) | st.floats(1e-15, 1e-6),
)
def test_the_longest_chunk_within_a_time_is_found(
    seconds: float, history: int, token: float, attention: float
) -> None:
    cost = replace(PLANTED, token_seconds=token, attention_seconds=attention, history_seconds=1e-7)
    longest = cost.tokens_within(seconds, history)
    if isinf(longest):
        assert cost.chunk_seconds(1 << 40, history) <= seconds
    elif longest:
        assert cost.chunk_seconds(floor(longest), history) <= seconds * (1 + 1e-6) + 1e-12
        assert cost.chunk_seconds(floor(longest) + 1, history) >= seconds * (1 - 1e-6) - 1e-12


def test_a_history_that_takes_all_the_time_leaves_none() -> None:
    cost = replace(PLANTED, history_seconds=1e-3)
    assert cost.tokens_within(0.1, 100) == 0
    assert cost.tokens_within(-1.0) == 0
