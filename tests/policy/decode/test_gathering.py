"""How long a decode worker gathers tokens."""

import pytest

from lengthwise_policy.decode.gathering import gathering_seconds


@pytest.mark.parametrize(
    ("shortest", "num_requests", "seconds"),
    [
        (0.02, 1, 0.02),
        (0.02, 8, 0.02),
        (0.02, 16, 0.04),
        (0.02, 20, 0.05),
        (0.02, 1000, 0.05),
        (0.5, 1000, 0.5),
        (0.001, 0, 0.001),
        (0.0, 1000, 0.0),
    ],
)
def test_the_more_requests_the_longer_within_bounds(
    shortest: float, num_requests: int, seconds: float
) -> None:
    assert gathering_seconds(shortest, num_requests) == seconds
