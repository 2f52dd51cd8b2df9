"""The window against brute force: the largest demand, and the workers that were enough for it."""

from math import isclose

from hypothesis import given
from hypothesis import strategies as st
from policy.scaling.scaling_cases import need

from lengthwise_policy.scaling.window import DemandWindow

SECONDS = 60.0
MARGIN = 0.1
SAMPLES = st.lists(st.tuples(st.floats(0.5, 20), st.floats(0, 50)), min_size=1, max_size=40)


@given(SAMPLES, st.floats(1, SECONDS))
def test_the_largest_demand_is_that_of_all_samples_within_the_time(
    samples: list[tuple[float, float]], seconds: float
) -> None:
    window = DemandWindow(SECONDS)
    seen, now = [], 0.0
    for gap, workers in samples:
        now += gap
        seen.append((now, workers))
        window.see(now, need(workers))
        within = [workers for at, workers in seen if at >= now - seconds]
        is_watched = now - seen[0][0] >= seconds
        assert window.largest(seconds) == (max(within) if is_watched else None)


@given(st.floats(0, 50), st.integers(1, 60))
def test_pods_go_only_where_those_left_could_bear_the_load_of_those_gone(
    demand: float, there: int
) -> None:
    """The test of load x N / (N - 1), one pod after the other."""
    window = DemandWindow(SECONDS)
    for index in range(13):
        window.see(5.0 * index, need(demand))
    enough = window.enough(SECONDS, MARGIN)
    assert enough is not None

    workers = there
    while workers > 1:
        load = demand / workers  # of one worker, 1: as much as is planned with
        after = load * workers / (workers - 1)
        if after > 1 - MARGIN and not isclose(after, 1 - MARGIN, rel_tol=1e-9):
            break
        workers -= 1
    assert min(enough, there) == workers


@given(st.floats(0, 50), st.floats(0, 50))
def test_more_demand_never_needs_fewer_workers(one: float, other: float) -> None:
    windows = []
    for demand in sorted((one, other)):
        window = DemandWindow(SECONDS)
        for index in range(13):
            window.see(5.0 * index, need(demand))
        windows.append((window.needed_now(), window.enough(SECONDS, MARGIN) or 0))
    (low_now, low_enough), (high_now, high_enough) = windows
    assert low_now <= high_now
    assert low_enough <= high_enough
    assert high_now <= high_enough
