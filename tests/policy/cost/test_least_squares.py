"""Least squares with non-negative coefficients: the optimum, or a clear no."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.cost.least_squares import condition, nonnegative, solve


@given(
    st.integers(1, 6).flatmap(
        lambda size: st.lists(
            st.lists(st.floats(-1, 1), min_size=size + 1, max_size=size + 1),
            min_size=size + 2,
            max_size=12,
        )
    )
)
def test_least_squares_end_where_no_coefficient_can_improve(rows: list[list[float]]) -> None:
    *columns, target = zip(*rows, strict=True)
    gram = [[sum(map(float.__mul__, a, b)) for b in columns] for a in columns]
    moments = [sum(map(float.__mul__, column, target)) for column in columns]
    if min(gram[i][i] for i in range(len(gram))) < 1e-3 or condition(gram) > 1e6:
        return
    solution = nonnegative(gram, moments)
    assert solution is not None
    for value, row, moment in zip(solution, gram, moments, strict=True):
        slope = moment - sum(map(float.__mul__, row, solution))
        assert value >= 0.0
        assert slope == pytest.approx(0.0, abs=1e-6) if value > 0.0 else slope <= 1e-6


def test_a_singular_matrix_is_reported() -> None:
    assert solve([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]) is None
    assert condition([[1.0, 1.0], [1.0, 1.0]]) == float("inf")
    assert condition([[1.0, 0.0], [0.0, 1.0]]) == 1.0
