"""How often a simulated worker reports."""

from itertools import count, pairwise

import pytest
from simulator.clusters import group

from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_simulator.cluster.spec import ClusterSpec
from lengthwise_simulator.cluster.statuses import ReportedState, StatusFeed


@pytest.mark.parametrize("interval", [0.05, 0.3, 2 / 3])
def test_a_worker_that_always_changes_reports_at_the_interval_and_no_more_often(
    interval: float,
) -> None:
    """Heartbeats included: they come every half second, or as seldom as statuses do."""
    cluster = ClusterSpec(groups=(group("decode", 1),), status_seconds=interval)
    steps = count()

    def state() -> ReportedState:
        return ReportedState(
            blocks_free=0, running_requests=next(steps), queued_requests=0, queued_tokens=0
        )

    feed = StatusFeed(state=state, blocks=PrefixCache(4), cluster=cluster, began_at=0.0)
    sent: list[float] = []
    for tick in range(1, 1001):
        feed.changed(tick * 0.005)
        sent.extend(report.sent_at for report in feed.take(0, tick * 0.005))
    assert [later - earlier for earlier, later in pairwise(sent)] == pytest.approx(
        [interval] * (len(sent) - 1), abs=0.006
    )
    assert len(sent) == pytest.approx(5 / interval, abs=2)
