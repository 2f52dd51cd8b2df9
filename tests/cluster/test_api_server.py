"""The API server goes away under load. Last of the events: kubelets that lost their API server take
up to a minute to look for it again, so what is asked here is not asked of them."""

import subprocess
import time
from collections.abc import Callable

from cluster.cluster_events import UnderLoad
from cluster.kubectl import CommandFailed, Release, run
from cluster.scaling import samples_in
from harness.waiting import wait_for

AWAY_SECONDS = 20.0


LONGEST_PAUSE_SECONDS = 5.0
"""Routers try more often than that."""


def test_the_api_server_away(
    release: Release,
    under_load: UnderLoad,
    cluster_program: str,
    wake_kubelets: Callable[[], None],
) -> None:
    routers = release.ready("router")
    failed_before = failures_of(release, routers)
    with under_load():
        run(cluster_program, "stop", "kube-apiserver")
        try:
            time.sleep(AWAY_SECONDS)  # the event itself: there is nothing to wait for
        finally:
            run(cluster_program, "start", "kube-apiserver")
        wait_for("the API server", api_answers, 60)
        wake_kubelets()  # the load's answers are read through one of them
        wait_for("discovery's return", lambda: is_quiet(release, routers), 60)
        release.wait_until_ready()
    failed = failures_of(release, routers)
    assert all(failed[router] > failed_before[router] for router in routers)
    assert release.ready("router") == routers


def is_quiet(release: Release, routers: list[str]) -> bool:
    """Whether no router's discovery fails any more."""
    failed = failures_of(release, routers)
    time.sleep(LONGEST_PAUSE_SECONDS)
    return failures_of(release, routers) == failed


def failures_of(release: Release, routers: list[str]) -> dict[str, float]:
    """How often each router's discovery has failed. Errors: AssertionError when one is silent."""
    name = "lengthwise_discovery_errors_total"
    found = {router: samples_in(release, router, name) for router in routers}
    assert all(found.values())
    return {router: sum(each.value for each in samples) for router, samples in found.items()}


def api_answers() -> bool:
    try:
        return run("kubectl", "get", "--raw", "/readyz", seconds=5) == "ok"
    except (CommandFailed, subprocess.TimeoutExpired):
        return False
