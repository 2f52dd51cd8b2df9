"""What an outage of Prometheus leaves behind, and an operator's own wishes after it."""

import time

import pytest
from cluster.kubectl import Release
from cluster.prometheus_pod import PrometheusPod
from cluster.scaling import decided_at, events_of, replicas
from harness.waiting import wait_for

POOLS = ("prefill", "decode")

AWAY_SECONDS = 60.0

pytestmark = pytest.mark.usefixtures("prometheus", "autoscaler_log")


def test_prometheus_back_after_a_minute(
    release: Release,
    prometheus: PrometheusPod,
    prometheus_stopped_at: float,
    took: dict[str, float],
) -> None:
    time.sleep(max(prometheus_stopped_at + AWAY_SECONDS - time.time(), 0.0))
    decided = decided_at(release)
    assert decided < prometheus_stopped_at + 1.0
    prometheus.start()
    took["prometheus back to a decision"] = wait_for(
        "a decision", lambda: decided_at(release) > decided, 60
    )
    for pool in POOLS:
        assert replicas(release, pool) == 2
        assert len(events_of(release, pool, "ScaledOut")) <= 1


def test_an_operators_number_of_replicas_stands(release: Release) -> None:
    name = f"deployment/{release.fullname}-autoscaler"
    scale = f"deployment/{release.fullname}-decode"
    release.namespace.kubectl("scale", scale, "--replicas=1")
    notice = "pool decode stays as it is: manual edit: 1 replicas stand"
    wait_for(
        "its notice", lambda: notice in release.namespace.kubectl("logs", name, "--tail=20"), 15
    )
    release.namespace.kubectl("scale", scale, "--replicas=2")
    release.wait_until_ready()


def test_an_operator_may_pause_it(release: Release) -> None:
    """For the rest of the tests, which take pods away themselves."""
    for pool in POOLS:
        deployment = f"deployment/{release.fullname}-{pool}"
        release.namespace.kubectl("annotate", deployment, "lengthwise/autoscale=paused")
        wait_for("its notice", lambda pool=pool: events_of(release, pool, "ScalingPaused"), 15)  # type: ignore[misc]
