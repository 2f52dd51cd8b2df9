"""Pods are deleted under load, and no request fails or hangs. Prometheus is away meanwhile, which
none of it needs."""

from datetime import datetime

import pytest
from cluster.cluster_events import CostSince, UnderLoad
from cluster.kubectl import KINDS, Release, condition_time
from harness.waiting import wait_for


def test_prometheus_away(prometheus_stopped_at: float, cost_since: CostSince) -> None:
    """What that alone costs; test_outage.py sees its end."""
    cost_since("prometheus_away", prometheus_stopped_at)


@pytest.mark.parametrize("what", KINDS)
def test_each_pod_deleted(release: Release, under_load: UnderLoad, what: str) -> None:
    with under_load():
        for victim in release.ready(what):
            known = release.all_pods()
            release.namespace.kubectl("delete", "pod", victim, "--wait=false")
            release.wait_until_gone([victim])
            release.wait_until_ready()
            (new,) = set(release.all_pods()) - set(known)
            if what != "router":
                assert_used_when_ready(release, new, what)


def assert_used_when_ready(release: Release, pod: str, pool: str) -> None:
    """Every router logs that the worker is ready within a second of Kubernetes' saying so."""
    ready = condition_time(release.namespace, pod)
    for router in release.ready("router"):

        def used(router: str = router) -> list[datetime]:
            lines = release.namespace.kubectl("logs", router, "--timestamps").splitlines()
            ready_lines = [line for line in lines if pool in line and "is ready" in line]
            times = [datetime.fromisoformat(line[:26] + "+00:00") for line in ready_lines]
            return [time for time in times if time >= ready]

        wait_for("its use", used, 10)
        # Kubernetes reports whole seconds: Ready may be up to one later than it says.
        assert (used()[0] - ready).total_seconds() < 2.0
