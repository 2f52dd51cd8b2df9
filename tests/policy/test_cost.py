"""The cost model: where a prefill turns from memory-bound to compute-bound."""

from dataclasses import replace

import pytest

from lengthwise_policy.cost import PRIOR, CostModel
from lengthwise_policy.lengths import DEFAULT_SHORT_TOKENS

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
