"""When to try again, where, and after how long."""

import pytest

from lengthwise import (
    DeadlineExceeded,
    InvalidRequest,
    NoWorkerAvailable,
    Overloaded,
    Retry,
    Timeout,
)
from lengthwise._retries import Retries, Rotation

LOST = NoWorkerAvailable("lost")


def new(
    num_endpoints: int = 1, *, retry: Retry | None = None, total: float = 100.0, draw: float = 0.0
) -> Retries:
    return Retries(
        retry=retry or Retry(),
        timeout=Timeout(total=total),
        rotation=Rotation(num_endpoints),
        now=0.0,
        draw=lambda: draw,
    )


def failures(retries: Retries) -> list[tuple[int, float]]:
    """(endpoint, delay after it) of every attempt but the last."""
    seen = []
    while True:
        endpoint = retries.begin(0.0).endpoint
        try:
            seen.append((endpoint, retries.fail(LOST, 0.0)))
        except NoWorkerAvailable:
            return seen


def test_waits_double_up_to_the_greatest() -> None:
    retry = Retry(attempts=7, first_delay=0.25, max_delay=2.0)
    assert failures(new(retry=retry)) == [
        (0, 0.125), (0, 0.25), (0, 0.5), (0, 1.0), (0, 1.0), (0, 1.0),
    ]  # fmt: skip


def test_jitter_spreads_a_wait_over_its_upper_half() -> None:
    low, high = (new(draw=draw) for draw in (0.0, 0.999))
    assert low.fail(LOST, 0.0) == pytest.approx(0.05)
    assert high.fail(LOST, 0.0) == pytest.approx(0.1, rel=0.01)


def test_every_endpoint_is_tried_before_a_wait() -> None:
    assert failures(new(3, retry=Retry(attempts=2, first_delay=0.2))) == [
        (0, 0.0), (1, 0.0), (2, 0.1), (0, 0.0), (1, 0.0),
    ]  # fmt: skip


def test_a_router_that_is_lost_for_ten_seconds_is_waited_for() -> None:
    assert sum(delay for _, delay in failures(new(draw=0.0))) > 10.0
    assert len(failures(new())) == 11


def test_progress_renews_patience() -> None:
    retries = new(retry=Retry(attempts=3))
    for _ in range(2):
        retries.fail(LOST, 0.0)
    retries.progress()
    for _ in range(2):
        retries.fail(LOST, 0.0)
    with pytest.raises(NoWorkerAvailable):
        retries.fail(LOST, 0.0)


def test_what_is_left_shrinks_until_the_deadline() -> None:
    retries = new(total=10.0)
    assert retries.begin(4.0).patience.total == 6.0
    with pytest.raises(DeadlineExceeded, match="within 10 s"):
        retries.begin(10.0)


def test_no_wait_is_begun_that_ends_after_the_deadline() -> None:
    with pytest.raises(NoWorkerAvailable):
        new(total=10.0).fail(LOST, 9.99)


def test_the_servers_own_wait_comes_first() -> None:
    assert new(2).fail(Overloaded("full", 7.0), 0.0) == 7.0
    assert new(2).fail(Overloaded("full", 0.0), 0.0) == 0.0


def test_what_cannot_pass_is_raised_at_once() -> None:
    with pytest.raises(InvalidRequest, match="bad"):
        new().fail(InvalidRequest("bad"), 0.0)


def test_calls_of_one_client_leave_a_failed_endpoint_together() -> None:
    rotation = Rotation(3)
    rotation.leave(0)
    rotation.leave(0)
    assert rotation.current == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: Timeout(total=0), id="total-0"),
        pytest.param(lambda: Timeout(silence=float("nan")), id="silence-nan"),
        pytest.param(lambda: Timeout(connect=float("inf")), id="connect-inf"),
        pytest.param(lambda: Retry(attempts=0), id="attempts-0"),
        pytest.param(lambda: Retry(first_delay=2.0, max_delay=1.0), id="delays"),
    ],
)
def test_patience_without_sense_is_refused(wrong: "type[Timeout] | type[Retry]") -> None:
    with pytest.raises(InvalidRequest, match="got"):
        wrong()
