"""A count that grows is found, one that only varies is not."""

import random

import pytest
from soak.leaks import growth, leaks


@pytest.mark.parametrize(("per_minute", "leaked"), [(0.0, False), (1.0, True)])
def test_a_slow_leak_is_found_under_noise_and_peaks(per_minute: float, leaked: bool) -> None:
    rng = random.Random(5)
    samples = [
        100 + per_minute * second / 60 + rng.choice((0, 1, 2, 3, 40))
        for second in range(0, 1800, 5)
    ]
    grown = growth(samples)
    assert grown == pytest.approx(per_minute * 10, abs=2)
    assert bool(leaks({"router-2": {"fds": grown}})) == leaked


def test_what_fills_at_first_is_no_growth() -> None:
    assert growth([float(min(n, 100)) for n in range(360)]) == 0
