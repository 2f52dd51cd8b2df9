"""What counts as having had a path is exact, so that nothing is excused that could be served."""

import pytest
from soak.timeline import NOTICE_SECONDS, Timeline, has_path

ROUTERS, DECODE = ("router-0", "router-1"), ("decode-0", "decode-1")


@pytest.mark.parametrize(
    ("live", "cut", "path"),
    [
        ({"router-0", "decode-1"}, (), True),
        ({"router-0", "router-1"}, (), False),
        ({"decode-0", "decode-1"}, (), False),
        ({"router-0", "decode-1", "prefill-0"}, {("router-0", "decode-1")}, False),
        ({"router-0", "router-1", "decode-1"}, {("router-0", "decode-1")}, True),
        ({"router-0", "decode-1", "prefill-0"}, {("prefill-0", "decode-1")}, True),
    ],
)
def test_a_path_is_a_live_router_that_reaches_a_live_decode_worker(
    live: set[str], cut: set[tuple[str, str]], path: bool
) -> None:
    assert has_path(live, cut, routers=ROUTERS, decode=DECODE) == path


@pytest.fixture
def timeline() -> Timeline:
    """No path from 10 to 14 and from 20 on, until 25 at least."""
    timeline = Timeline()
    for tenth in range(250 + 1):
        now = tenth / 10
        timeline.look(now, not (10 <= now < 14 or now >= 20))
    return timeline


def test_only_the_time_without_a_path_is_taken_off_a_silence(timeline: Timeline) -> None:
    assert timeline.out_seconds(0, 25) == pytest.approx(9)
    assert timeline.silence([0, 5, 9]) == pytest.approx(5)
    assert timeline.silence([5, 18]) == pytest.approx(9)
    assert timeline.silence([11, 13]) == pytest.approx(0)
    assert timeline.silence([0, 19, 25]) == pytest.approx(15)


def test_a_failure_is_excused_only_while_there_is_no_path(timeline: Timeline) -> None:
    assert not timeline.is_out(9.9)
    assert timeline.is_out(12)
    assert timeline.is_out(14 + NOTICE_SECONDS / 2)
    assert not timeline.is_out(14.1 + NOTICE_SECONDS)
    assert timeline.is_out(25)
